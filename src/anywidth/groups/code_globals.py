"""Global state that the code of a model uses: variables, their containers, and cached functions."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import nn

from anywidth.groups.python_code import closed_values, nested_code

__all__ = ["CodeGlobals", "globals_of", "is_setting"]

_CachedFunction = type(lru_cache(lambda: None))
_LIBRARIES = frozenset(
    {"torch", "numpy", "anywidth", "torchvision", "timm", "transformers", "huggingface_hub", *sys.stdlib_module_names}
)
"""Packages whose functions do not store anything that depends on numbers of channels."""
_CONTAINERS = (dict, list, set, deque)
_PLAIN = (bool, int, float, complex, str, bytes, types.NoneType)
_LONGEST, _MOST, _FEW = 10_000, 5_000, 100
_MISSING = object()


@dataclass
class CodeGlobals:
    """The global state that is used by the functions of a module tree and the functions that they call.

    Torch, NumPy, the standard library and model libraries are not searched.

    Attributes:
        containers: Dictionaries, lists and sets in global variables and closures.
        settings: Global variables with plain data that none of the functions sets, as (scope, name).
    """

    model: nn.Module
    containers: list[Any] = field(default_factory=list)
    settings: list[tuple[dict[str, Any], str]] = field(default_factory=list)
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
        stored = {(id(scope), name) for scope, name, _ in self._variables}
        found = {(id(scope), name): (scope, name) for scope, name in self.settings}
        self.settings = [place for key, place in found.items() if key not in stored]

    def restore(self) -> None:
        """Restore variables, and clear the caches of functions that were called since."""
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
        for value in closed_values(function):
            yield from _useful(value)
        scope = function.__globals__
        read, stored = _names(function.__code__)
        self._variables += [(scope, name, scope.get(name, _MISSING)) for name in stored]
        for name in read:
            value = scope.get(name)
            if isinstance(value, types.ModuleType):
                if not _is_library(value.__name__):
                    inside = vars(value)
                    self.settings += [(inside, inner) for inner in read if is_setting(inside.get(inner, _MISSING))]
                    yield from (each for inner in read for each in _useful(inside.get(inner)))
            else:
                if is_setting(scope.get(name, _MISSING)) and name in globals_of(function.__code__):
                    self.settings.append((scope, name))
                yield from _useful(value)


def is_setting(value: Any) -> bool:
    """Whether a value is plain data, or a filled container of it; caches are empty or contain tensors."""
    if isinstance(value, (dict, types.SimpleNamespace)):
        items = list((value if isinstance(value, dict) else vars(value)).values())
    elif isinstance(value, (*_CONTAINERS, tuple, frozenset)):
        items = list(value)
    else:
        return isinstance(value, _PLAIN)
    return 0 < len(items) <= _FEW and all(isinstance(item, _PLAIN) for item in items)


def _attributes(module: nn.Module) -> Iterator[Any]:
    """The functions of a module's classes, and functions in attributes of the module."""
    for kind in type(module).__mro__:
        if not _is_library(kind.__module__):
            yield from (each for value in vars(kind).values() for each in _useful(value))
    yield from (value for value in vars(module).values() if isinstance(value, (types.FunctionType, _CachedFunction)))


def _useful(value: Any) -> Iterator[Any]:
    kinds = (types.FunctionType, types.MethodType, staticmethod, classmethod, property, functools.cached_property)
    if isinstance(value, (*kinds, functools.partial, _CachedFunction, *_CONTAINERS)):
        yield value


def _functions(value: Any) -> Iterator[Any]:
    """The functions inside a decorated function, a method or a property."""
    for name in ("__wrapped__", "__func__", "fget", "func"):
        inner = getattr(value, name, None)
        if inner is not None:
            yield from _useful(inner)


@lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names that code and its inner functions look up, and the global variables that they set."""
    read, stored = dict[str, None](), dict[str, None]()
    for each in nested_code(code):
        read |= dict.fromkeys(each.co_names)
        if dis.opmap["STORE_GLOBAL"] in each.co_code[::2]:
            stored |= {i.argval: None for i in dis.get_instructions(each) if i.opname == "STORE_GLOBAL"}
    return tuple(read), tuple(stored)


@lru_cache(maxsize=4096)
def globals_of(code: types.CodeType) -> frozenset[str]:
    """The global variables that code and its inner functions read, without attributes of the same name."""
    instructions = (each for inner in nested_code(code) for each in dis.get_instructions(inner))
    return frozenset(each.argval for each in instructions if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"))


def _is_library(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] in _LIBRARIES
