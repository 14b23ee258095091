"""Global state that the code of a model uses: variables, containers in them, and cached functions."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import nn

__all__ = ["CodeGlobals"]

_CachedFunction = type(lru_cache(lambda: None))
_LIBRARIES = frozenset(
    {"torch", "numpy", "anywidth", "torchvision", "timm", "transformers", "huggingface_hub", *sys.stdlib_module_names}
)
"""Packages whose functions keep nothing that depends on the numbers of channels."""
_CONTAINERS = (dict, list, set, deque)
_LONGEST, _MOST = 10_000, 5_000
_MISSING = object()


@dataclass
class CodeGlobals:
    """The global state that the functions of a module tree use, and the functions that those call.

    Torch, NumPy, the standard library and libraries of models are not looked into.

    Attributes:
        containers: Dictionaries, lists and sets in global variables and closures.
    """

    model: nn.Module
    containers: list[Any] = field(default_factory=list)
    _variables: list[tuple[dict[str, Any], str, Any]] = field(default_factory=list)
    _caches: list[tuple[Any, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        waiting = [value for module in self.model.modules() for value in _attributes(module)]
        seen: set[int] = set()
        while waiting and len(seen) < _MOST:
            value = waiting.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, _CONTAINERS):
                if len(value) <= _LONGEST:
                    self.containers.append(value)
            elif isinstance(value, _CachedFunction):
                self._caches.append((value, value.cache_info()))
                waiting += _functions(value)
            elif isinstance(value, types.FunctionType):
                waiting += self._used(value)
            else:
                waiting += _functions(value)

    def restore(self) -> None:
        """Give variables their values back, and empty the caches of functions that were called anew."""
        for scope, name, value in self._variables:
            if value is _MISSING:
                scope.pop(name, None)
            elif scope.get(name, _MISSING) is not value:
                scope[name] = value
        for function, before in self._caches:
            now = function.cache_info()
            if (now.misses, now.currsize) != (before.misses, before.currsize):
                function.cache_clear()

    def _used(self, function: types.FunctionType) -> Iterator[Any]:
        if _is_library(function.__module__):
            return
        yield from _functions(function)
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # of an empty cell
                yield from _useful(cell.cell_contents)
        scope = function.__globals__
        read, stored = _names(function.__code__)
        self._variables += [(scope, name, scope.get(name, _MISSING)) for name in stored]
        for name in read:
            value = scope.get(name)
            if isinstance(value, types.ModuleType):
                if not _is_library(value.__name__):
                    yield from (each for inner in read for each in _useful(vars(value).get(inner)))
            else:
                yield from _useful(value)


def _attributes(module: nn.Module) -> Iterator[Any]:
    """The functions of a module's classes, and those that are attributes of the module itself."""
    for kind in type(module).__mro__:
        if not _is_library(kind.__module__):
            yield from (each for value in vars(kind).values() for each in _useful(value))
    yield from (value for value in vars(module).values() if isinstance(value, (types.FunctionType, _CachedFunction)))


def _useful(value: Any) -> Iterator[Any]:
    kinds = (types.FunctionType, types.MethodType, staticmethod, classmethod, property, functools.cached_property)
    if isinstance(value, (*kinds, functools.partial, _CachedFunction, *_CONTAINERS)):
        yield value


def _functions(value: Any) -> Iterator[Any]:
    """The functions inside a decorated one, a method or a property."""
    for name in ("__wrapped__", "__func__", "fget", "func"):
        inner = getattr(value, name, None)
        if inner is not None:
            yield from _useful(inner)


@lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that code, and functions that it defines, look up; and the global variables that it sets."""
    read, stored = dict.fromkeys(code.co_names), dict[str, None]()
    if dis.opmap["STORE_GLOBAL"] in code.co_code[::2]:
        stored |= {each.argval: None for each in dis.get_instructions(code) if each.opname == "STORE_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner_read, inner_stored = _names(constant)
            read |= dict.fromkeys(inner_read)
            stored |= dict.fromkeys(inner_stored)
    return tuple(read), tuple(stored)


def _is_library(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in _LIBRARIES
