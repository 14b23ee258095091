"""Which functions and objects lead back to the modules of a tree, and so belong to it."""

from __future__ import annotations

import functools
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from torch import Tensor, nn

from anywidth.core.errors import AnalysisError

__all__ = ["Reach", "behind"]

_LEAVES = (str, bytes, int, float, complex, type(None), type, types.ModuleType, types.BuiltinFunctionType, Tensor)
_CONTAINERS = (list, tuple, deque, set, frozenset)


class Reach:
    """Knows what belongs to a module tree: its modules, and the containers and objects that are their attributes."""

    def __init__(self, model: nn.Module | None) -> None:
        self._model = model
        self._owned: set[int] | None = None
        self._known: dict[int, bool] = {}

    def of(self, value: Any) -> bool:
        """Whether something is owned by the tree or leads there: by a closure, a default, an argument, an attribute."""
        if type(value) in weakref.ProxyTypes:
            value = behind(value)
        if self._model is None or isinstance(value, _LEAVES):
            return False
        found = self._known.get(id(value))
        if found is None:
            found = self._known[id(value)] = self._leads(value)
        return found

    def check_globals(self, function: types.FunctionType) -> None:
        """Raise if a function finds a module of the tree by a global variable, which no copy can change.

        Raises:
            AnalysisError: with the name of the variable.
        """
        if self._model is None:
            return
        scope = function.__globals__
        for name in _names(function.__code__):
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
    """The object that a weak reference or proxy stands for; None if it is gone."""
    if type(reference) not in weakref.ProxyTypes:
        return reference()
    try:
        return reference.__repr__.__self__  # asked of the object itself
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
        if isinstance(value, tuple):  # never changed, and the same object may be in use anywhere
            _collect(value, owned)
        elif hasattr(value, "__dict__") or isinstance(value, (dict, *_CONTAINERS)):
            owned.add(id(value))
            if isinstance(value, dict):
                _collect(value.values(), owned)
            elif isinstance(value, _CONTAINERS):
                _collect(value, owned)


def _parts(value: Any) -> Iterator[Any]:
    """What something refers to, one step on; nothing of modules, which belong to the tree or to another model."""
    if type(value) in weakref.ProxyTypes or isinstance(value, weakref.ReferenceType):
        yield behind(value)
    elif isinstance(value, nn.Module):
        return
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # an empty cell
                continue
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
        yield from value.values()
    elif isinstance(value, (*_CONTAINERS, Set)):
        yield from value
    else:
        yield from getattr(value, "__dict__", {}).values()


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))
