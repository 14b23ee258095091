"""Copies of module trees with other tensors, without references back to the original."""

from __future__ import annotations

import contextlib
import copy
import copyreg
import functools
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anywidth.core.errors import AnalysisError
from anywidth.core.modules import named_tensors
from anywidth.groups.reach import Reach, behind

__all__ = ["MISSING", "duplicate", "duplicate_attributes", "duplicate_value"]

MISSING = object()
"""The value of an attribute that a copy does not have."""

_LARGE = 4096
"""Bytes beyond which changes of an array are not looked for."""
_ATOMIC = frozenset(
    {
        type(None), type(Ellipsis), type(NotImplemented), bool, int, float, complex, str, bytes, type, range,
        types.BuiltinFunctionType, types.CodeType, types.ModuleType, property, torch.Size, torch.dtype, torch.device,
        torch.layout, torch.memory_format,
    }
)  # fmt: skip
_REFERENCES = (weakref.ReferenceType, weakref.WeakMethod, *weakref.ProxyTypes)
_NONE = object()


def duplicate(
    model: nn.Module,
    tensors: Mapping[int, Tensor] | None = None,
    values: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    share: bool = False,
) -> nn.Module:
    """A copy of a module tree with the same classes and attributes, and functions that refer to the copy.

    Unlike `copy.deepcopy`, it binds closures, partials and weak references of the tree to the copy, detaches tensors
    that a forward stored with their graph, and shares objects that cannot be copied (locks, files, generators).

    Args:
        model: The original, which stays unchanged.
        tensors: What stands for a tensor of the original, by its id.
        values: By module path and name: attributes whose values are copies of these instead; `MISSING` leaves one out.
            Under `_buffers`, a map of buffers.
        share: Share trainable tensors that are plain attributes, so that gradients reach the original's, and large
            tensors and arrays, so that the copy has whatever is written to them.

    Raises:
        AnalysisError: a module cannot be copied, or a function refers to the model by a global variable.

    >>> class Scaled(nn.Module):
    ...     def __init__(self) -> None:
    ...         super().__init__()
    ...         self.scale = nn.Parameter(torch.tensor(2.0))
    ...         self.act = lambda x: x * self.scale
    >>> model = Scaled()
    >>> twin = duplicate(model)
    >>> _ = model.scale.data.fill_(5)
    >>> float(twin.act(torch.tensor(3.0)).detach())
    6.0
    """
    return _Duplicator(model, tensors or {}, values or {}, share).copy(model)


def duplicate_value(value: Any) -> Any:
    """A copy of one attribute, with tensors detached from their graphs."""
    return _Duplicator(None, {}, {}).copy(value)


def duplicate_attributes(model: nn.Module) -> list[tuple[nn.Module, dict[str, Any]]]:
    """For every module: copies of its attributes, which refer to the same modules, parameters and buffers."""
    own = {id(module): module for module in model.modules()}
    shared: dict[int, Any] = {**own, **{id(tensor): tensor for tensor in named_tensors(model).values()}}
    duplicator = _Duplicator(model, shared, {})
    return [(module, {name: duplicator.copy(value) for name, value in vars(module).items()}) for module in own.values()]


class _Duplicator:
    """The state of one copy; `memo` is as in `copy.deepcopy`, for classes that define `__deepcopy__`."""

    def __init__(
        self,
        model: nn.Module | None,
        tensors: Mapping[int, Tensor],
        values: Mapping[str, Mapping[str, Any]],
        share: bool = False,
    ) -> None:
        self.memo: dict[int, Any] = dict(tensors)
        self.alive: list[Any] = []
        self.memo[id(self.memo)] = self.alive
        self.reach = Reach(model)
        self.values: dict[int, Mapping[str, Any]] = {}
        self.model, self.share = model, share
        if model is not None and values:
            self.values = {id(model.get_submodule(path)): given for path, given in values.items()}

    def copy(self, value: Any, _: Any = None) -> Any:
        """The copy of a value, always the same for the same value."""
        kind = type(value)
        if kind in _ATOMIC:
            return value
        made = self.memo.get(id(value), _NONE)
        if made is not _NONE:
            return made
        maker = _MAKERS.get(kind)
        if maker is not None:
            made = maker(self, value)
        elif kind in _REFERENCES:  # first, because a proxy looks like its object
            made = self._reference(value)
        elif isinstance(value, nn.Module):
            made = self._module(value)
        elif isinstance(value, Tensor):
            made = self._tensor(value)
        elif isinstance(value, type):
            return value
        else:
            made = self._object(value)
        self.memo[id(value)] = made
        self.alive.append(value)  # ids are reused
        return made

    def _dict(self, value: dict[Any, Any]) -> dict[Any, Any]:
        made = self.memo[id(value)] = type(value)()
        for key, item in value.items():
            made[key if type(key) is str else self.copy(key)] = self.copy(item)
        return made

    def _default_dict(self, value: defaultdict[Any, Any]) -> defaultdict[Any, Any]:
        made = self.memo[id(value)] = defaultdict(self.copy(value.default_factory))
        made.update((self.copy(key), self.copy(item)) for key, item in value.items())
        return made

    def _list(self, value: list[Any]) -> list[Any]:
        made = self.memo[id(value)] = []
        made.extend(self.copy(item) for item in value)
        return made

    def _deque(self, value: deque[Any]) -> deque[Any]:
        made = self.memo[id(value)] = deque(maxlen=value.maxlen)
        made.extend(self.copy(item) for item in value)
        return made

    def _tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        made = tuple(self.copy(item) for item in value)
        return value if all(a is b for a, b in zip(made, value, strict=True)) else made

    def _set(self, value: set[Any]) -> Any:
        return type(value)(self.copy(item) for item in value)

    def _weak_keys(self, value: weakref.WeakKeyDictionary[Any, Any]) -> weakref.WeakKeyDictionary[Any, Any]:
        made = self.memo[id(value)] = weakref.WeakKeyDictionary()
        made.update({self._rebound(key): self.copy(item) for key, item in value.items()})
        return made

    def _weak_values(self, value: weakref.WeakValueDictionary[Any, Any]) -> weakref.WeakValueDictionary[Any, Any]:
        made = self.memo[id(value)] = weakref.WeakValueDictionary()
        made.update({self.copy(key): self._rebound(item) for key, item in value.items()})
        return made

    def _weak_set(self, value: weakref.WeakSet[Any]) -> weakref.WeakSet[Any]:
        return weakref.WeakSet(self._rebound(item) for item in value)

    def _tensor(self, value: Tensor) -> Tensor:
        if not value.is_leaf:  # stored by a forward, with its graph
            return value.detach().clone()
        if self.share and (value.requires_grad or (value.layout == torch.strided and value.nbytes > _LARGE)):
            return value
        return copy.deepcopy(value, self.memo)

    def _array(self, value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return value if self.share and value.nbytes > _LARGE else copy.deepcopy(value, self.memo)

    def _module(self, module: nn.Module) -> nn.Module:
        kind: Any = type(module)
        own = getattr(kind, "__deepcopy__", None)
        parametrized = own is not None and own.__module__ == "torch.nn.utils.parametrize"
        standard = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is object.__reduce__
        if not parametrized and (own is not None or not standard):
            try:
                return own(module, self.memo) if own is not None else self._reduced(module)
            except Exception as error:
                raise AnalysisError(
                    f"{self._path(module)} ({kind.__name__}) cannot be copied, and subnets are copies "
                    f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
                    "replace it by a module that copy.deepcopy can copy"
                ) from error
        made = self.memo[id(module)] = kind.__new__(kind)
        state = module.__dict__
        if not parametrized and getattr(kind, "__getstate__", None) is not getattr(object, "__getstate__", None):
            state = kind.__getstate__(module)
        given = self.values.get(id(module), {})
        copied = {name: self.copy(value) for name, value in state.items() if name not in given}
        for name, value in given.items():
            if name == "_buffers":
                buffers = {key: item for key, item in state[name].items() if key not in value}
                copied[name] = {**self.copy(buffers), **{k: v for k, v in value.items() if v is not MISSING}}
            elif value is not MISSING:
                copied[name] = self.copy(value)
        if kind.__setstate__ is nn.Module.__setstate__:
            made.__dict__.update(copied)
        else:
            made.__setstate__(copied)
        return made

    def _path(self, module: nn.Module) -> str:
        found = self.model.named_modules() if self.model is not None else ()
        return next((path for path, each in found if each is module), "") or "the model"

    def _function(self, value: types.FunctionType) -> types.FunctionType:
        self.reach.check_globals(value)
        if not self.reach.of(value):
            return value
        cells = [self._cell(cell) for cell in value.__closure__ or ()]
        made = types.FunctionType(value.__code__, value.__globals__, value.__name__, None, tuple(cells))
        self.memo[id(value)] = made
        made.__qualname__, made.__doc__, made.__module__ = value.__qualname__, value.__doc__, value.__module__
        made.__annotations__ = value.__annotations__
        made.__defaults__ = self._rebound(value.__defaults__)
        made.__kwdefaults__ = self._rebound(value.__kwdefaults__)
        made.__dict__.update({name: self._rebound(item) for name, item in value.__dict__.items()})
        return made

    def _cell(self, cell: types.CellType) -> types.CellType:
        made = self.memo.get(id(cell))
        if made is None:
            made = self.memo[id(cell)] = types.CellType()
            self.alive.append(cell)
            with contextlib.suppress(ValueError):  # of an empty cell
                made.cell_contents = self._rebound(cell.cell_contents)
        return made

    def _rebound(self, value: Any) -> Any:
        """A copy of a function's references into the tree; other references are shared."""
        return self.copy(value) if self.reach.of(value) else value

    def _method(self, value: types.MethodType) -> Any:
        return types.MethodType(self.copy(value.__func__), self._rebound(value.__self__))

    def _partial(self, value: functools.partial[Any]) -> Any:
        if not self.reach.of(value):
            return value
        arguments = [self._rebound(item) for item in value.args]
        keywords = {name: self._rebound(item) for name, item in value.keywords.items()}
        return functools.partial(self._rebound(value.func), *arguments, **keywords)

    def _reference(self, value: Any) -> Any:
        target = behind(value)
        if target is None or not (id(target) in self.memo or self.reach.of(target)):
            return value
        kind = type(value)
        return (weakref.proxy if kind in weakref.ProxyTypes else kind)(self.copy(target))

    def _object(self, value: Any) -> Any:
        try:
            own = getattr(value, "__deepcopy__", None)
            return own(self.memo) if own is not None else self._reduced(value)
        except AnalysisError:
            raise
        except Exception:  # locks, files, generators, streams
            return value

    def _reduced(self, value: Any) -> Any:
        reductor = copyreg.dispatch_table.get(type(value))
        parts = reductor(value) if reductor is not None else value.__reduce_ex__(4)
        if isinstance(parts, str):
            return value
        return copy._reconstruct(value, self.memo, *parts, deepcopy=self.copy)  # type: ignore[attr-defined]


_MAKERS: dict[type, Callable[[_Duplicator, Any], Any]] = {
    dict: _Duplicator._dict,
    OrderedDict: _Duplicator._dict,
    defaultdict: _Duplicator._default_dict,
    list: _Duplicator._list,
    deque: _Duplicator._deque,
    tuple: _Duplicator._tuple,
    np.ndarray: _Duplicator._array,
    set: _Duplicator._set,
    frozenset: _Duplicator._set,
    weakref.WeakKeyDictionary: _Duplicator._weak_keys,
    weakref.WeakValueDictionary: _Duplicator._weak_values,
    weakref.WeakSet: _Duplicator._weak_set,
    types.FunctionType: _Duplicator._function,
    types.MethodType: _Duplicator._method,
    functools.partial: _Duplicator._partial,
}
