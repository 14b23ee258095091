"""Find functions and objects that refer back to the modules of a tree and so belong to it."""

from __future__ import annotations

import functools
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from torch import Tensor, nn

from anywidth.core.errors import AnalysisError
from anywidth.groups.code_globals import globals_of
from anywidth.groups.python_code import closed_values

__all__ = ["Reach", "attributes_in", "behind"]

_LEAVES = (str, bytes, int, float, complex, type(None), type, types.ModuleType, types.BuiltinFunctionType, Tensor)
_CONTAINERS = (list, tuple, deque, set, frozenset)
_ABSENT = object()


class Reach:
    """Determines what belongs to a module tree: its modules, and the containers and objects in their attributes."""

    def __init__(self, model: nn.Module | None) -> None:
        self._model = model
        self._owned: set[int] | None = None
        self._known: dict[int, bool] = {}

    def of(self, value: Any) -> bool:
        """Whether an object belongs to the tree or refers to it: by a closure, default, argument or attribute."""
        if type(value) in weakref.ProxyTypes:
            value = behind(value)
        if self._model is None or isinstance(value, _LEAVES):
            return False
        found = self._known.get(id(value))
        if found is None:
            found = self._known[id(value)] = self._leads(value)
        return found

    def check_globals(self, function: types.FunctionType) -> None:
        """Raise if a function finds a module of the tree by a global variable, which a copy cannot change.

        Raises:
            AnalysisError: a function does; the message names the variable.
        """
        if self._model is None:
            return
        scope = function.__globals__
        for name in globals_of(function.__code__):
            if isinstance(scope.get(name), nn.Module) and id(scope[name]) in self._modules:
                code = function.__code__
                raise AnalysisError(
                    f"{function.__qualname__} ({code.co_filename}:{code.co_firstlineno}), which a hook or an attribute "
                    f"of the model keeps, finds the model by the global variable {name!r}, so that subnets would call "
                    "into the supernet. Let it use its own arguments, or make it a method of the module"
                )

    @functools.cached_property
    def _modules(self) -> set[int]:
        assert self._model is not None
        return {id(module) for module in self._model.modules()}

    def _leads(self, value: Any) -> bool:
        if self._owned is None:
            self._owned = set(self._modules)
            assert self._model is not None
            for module in self._model.modules():
                _collect(module.__dict__.values(), self._owned)
        waiting, seen = [value], {id(value)}
        while waiting and len(seen) < 10_000:
            each = waiting.pop()
            if id(each) in self._owned:
                return True
            for part in _parts(each):
                if id(part) not in seen and not isinstance(part, _LEAVES):
                    seen.add(id(part))
                    waiting.append(part)
        return False


def behind(reference: Any) -> Any:
    """The object of a weak reference or proxy; None if it no longer exists."""
    if type(reference) not in weakref.ProxyTypes:
        return reference()
    try:
        return reference.__repr__.__self__  # asks the proxied object itself
    except ReferenceError:
        return None


def _collect(values: Iterable[Any], owned: set[int]) -> None:
    for value in values:
        if type(value) in weakref.ProxyTypes or isinstance(
            value, (*_LEAVES, nn.Module, types.FunctionType, types.MethodType, functools.partial)
        ):
            continue
        if id(value) in owned:
            continue
        if isinstance(value, tuple):  # immutable, and the same object may be used anywhere
            _collect(value, owned)
        elif attributes_in(value) or hasattr(value, "__dict__") or isinstance(value, (dict, *_CONTAINERS)):
            owned.add(id(value))
            if isinstance(value, dict):
                _collect(value, owned)
                _collect(value.values(), owned)
            elif isinstance(value, _CONTAINERS):
                _collect(value, owned)


def _parts(value: Any) -> Iterator[Any]:
    """The direct references of an object; nothing for modules, which belong to the tree or to another model."""
    if type(value) in weakref.ProxyTypes or isinstance(value, weakref.ReferenceType):
        yield behind(value)
    elif isinstance(value, nn.Module):
        return
    elif isinstance(value, types.FunctionType):
        yield from closed_values(value)
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        yield from value.__dict__.values()
    elif isinstance(value, types.MethodType):
        yield value.__self__
        yield value.__func__
    elif isinstance(value, functools.partial):
        yield value.func
        yield from value.args
        yield from value.keywords.values()
    elif isinstance(value, Mapping):
        yield from value
        yield from value.values()
    elif isinstance(value, (*_CONTAINERS, Set)):
        yield from value
    else:
        yield from attributes_in(value).values()


def attributes_in(value: Any) -> dict[str, Any]:
    """The attributes of an object, in its `__dict__` and in slots."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                hidden = name.startswith("__") and not name.endswith("__")
                name = f"_{kind.__name__.lstrip('_')}{name}" if hidden else name
                if (item := getattr(value, name, _ABSENT)) is not _ABSENT:
                    found[name] = item
    return found
