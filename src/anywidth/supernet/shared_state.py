"""State that the modules of a model share and a user may change: class attributes and global variables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from operator import is_
from types import FunctionType
from typing import Any

from torch import nn

from anywidth.groups.code_globals import is_setting
from anywidth.supernet.contents import MISSING, Contents

__all__ = ["Settings", "SharedState"]

Settings = Iterable[tuple[Mapping[str, Any], str]]
"""Global and environment variables, as (scope, name)."""


class SharedState:
    """Plain data and functions of the classes of a module tree, and global variables, at one moment.

    Attributes that a module writes in its forward are left out for its class.

    Args:
        settings: The global variables.
        contents: Watches containers.
    """

    def __init__(self, settings: Settings, contents: Contents) -> None:
        self._contents = contents
        self._places = [(scope, name, scope.get(name, MISSING)) for scope, name in settings]
        self._left_out: dict[type, set[str]] = {}
        self._kinds: list[tuple[Mapping[str, Any], Collection[str], list[Any]]] = []

    def of_class(self, kind: type[nn.Module], left_out: Collection[str]) -> dict[str, Any]:
        """The attributes that a module gets from its class, as copies that can be compared."""
        found: dict[str, Any] = {}
        for base in kind.__mro__:
            if base is not object and not base.__module__.startswith("torch."):
                self._left_out.setdefault(base, set()).update(left_out)
                for name, value in vars(base).items():
                    if _counts(name, value) and name not in left_out:
                        found.setdefault(name, self._contents.freeze(value))
        return found

    def of_globals(self, left_out: Collection[str]) -> dict[str, Any]:
        """The global variables, as copies that can be compared, by names with a dot."""
        self._places = [place for place in self._places if _dotted(*place[:2]) not in left_out]
        return {_dotted(scope, name): self._contents.freeze(value) for scope, name, value in self._places}

    def settle(self) -> None:
        """Compare with the present classes from now on."""
        self._kinds = [
            (vars(kind), left_out, [value for name, value in vars(kind).items() if name not in left_out])
            for kind, left_out in self._left_out.items()
        ]

    def is_current(self) -> bool:
        """Whether classes and variables still contain the same objects."""
        for scope, name, value in self._places:
            if scope.get(name, MISSING) is not value:
                return False
        for scope, left_out, values in self._kinds:
            found = [value for name, value in scope.items() if name not in left_out] if left_out else scope.values()
            if len(found) != len(values) or not all(map(is_, found, values)):
                return False
        return True


def _counts(name: str, value: Any) -> bool:
    plain = name == "__call__" or not (name.startswith("__") or name.startswith("_abc_"))
    return plain and (isinstance(value, (FunctionType, staticmethod, classmethod, property)) or is_setting(value))


def _dotted(scope: Mapping[str, Any], name: str) -> str:
    return f"{scope.get('__name__', '')}.{name}"
