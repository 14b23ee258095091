"""Packages that load their public names when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

__all__ = ["load_on_use"]


def load_on_use(package: str, homes: Mapping[str, str]) -> None:
    """Let a package import each of its public names from another module when it is first used.

    The command line reads and checks its arguments without PyTorch this way, whose import takes a second or more.

    Args:
        package: The `__name__` of the package.
        homes: By public name: the module that defines it.
    """
    found: dict[str, Any] = {}
    attributes: dict[str, Any] = {name: _attribute(package, name, home, found) for name, home in homes.items()}
    attributes["__dir__"] = lambda module: sorted({*ModuleType.__dir__(module), *homes})
    sys.modules[package].__class__ = type("LazyPackage", (ModuleType,), attributes)


def _attribute(package: str, name: str, home: str, found: dict[str, Any]) -> property:
    def get(_: ModuleType) -> Any:
        if name not in found:
            found[name] = getattr(importlib.import_module(home), name)
        return found[name]

    def replace(_: ModuleType, value: Any) -> None:
        # Importing a module sets it in its package, also where that name stands for a function in it.
        if not (isinstance(value, ModuleType) and value.__name__ == f"{package}.{name}"):
            found[name] = value

    def remove(_: ModuleType) -> None:
        found.pop(name, None)

    return property(get, replace, remove)
