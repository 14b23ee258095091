"""Contents of attributes: copies that can be compared, and views that detect changes cheaply."""

from __future__ import annotations

import argparse
import functools
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter, is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["MISSING", "Contents", "zero_numbers"]

_PLAIN = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, type)
_CONTAINERS = (list, tuple, set, frozenset, deque)
_REFERENCES = (weakref.ReferenceType, *weakref.ProxyTypes)
_CLOSED = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, torch.Generator, Enum,
)  # fmt: skip
_CLOSED_PACKAGES = frozenset(
    {"torch", "numpy", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "accelerate", "wandb"}
) | (sys.stdlib_module_names - {"__main__"})
_LONGEST, _DEEPEST, _MOST, _SMALL = 10_000, 16, 2_000, 4_096
_version = attrgetter("_version")


@dataclass(frozen=True)
class _Same:
    """Equal only to itself: avoids the `==` of objects, which tensors apply element by element."""

    value: Any
    state: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value and self.state == other.state

    __hash__ = None  # type: ignore[assignment]


MISSING = _Same(object())
"""Marks a missing attribute."""


def zero_numbers(frozen: Any) -> bool:
    """Whether a copy made by `Contents.freeze` represents a tensor or array of zeros."""
    if not isinstance(frozen, _Same):
        return False
    numbers = frozen.state[1] if isinstance(frozen.state, tuple) else frozen.state
    return isinstance(numbers, bytes) and not any(numbers)


class Contents:
    """Contents of the attributes of a module tree, including containers and objects of any class.

    Functions, classes, objects of training libraries, and objects that refer back to the modules, such as a trainer,
    are compared by identity. The values of small arrays and tensors are compared, those of large ones are not.

    Attributes:
        sized: Containers whose lengths and items are compared.
        views: Iterables of their items, in the same order.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.sized: list[Collection[Any]] = []
        self.views: list[Collection[Any]] = []
        self._registered = set(map(id, modules))
        self._watched: set[int] = set()
        self._memo: dict[int, Any] = {}
        self._tensors: list[Tensor] = []
        self._placed: list[Tensor] = []
        self._readers: list[Callable[[], Any]] = []
        self._slotted: list[Callable[[], list[Any]]] = []

    def watch(self, container: Any) -> None:
        """Compare the items of a container from now on."""
        if id(container) not in self._watched:
            self._watched.add(id(container))
            self.sized.append(container)
            self.views.append(container.values() if isinstance(container, dict) else container)

    def settle(self) -> None:
        """Compare with the present state from now on."""
        self._state = self._now()
        self._slots = [read() for read in self._slotted]

    @property
    def state(self) -> Any:
        """Versions, addresses and values of the tensors and arrays."""
        return self._state

    def is_current(self) -> bool:
        """Whether tensors, arrays and slots are unchanged, apart from `sized` and `views`."""
        return self._now() == self._state and all(
            len(now) == len(before) and all(map(is_, now, before))
            for now, before in zip((read() for read in self._slotted), self._slots, strict=True)
        )

    def freeze(self, value: Any, depth: int = 0, *, open_: bool = False) -> Any:
        """A copy that can be compared with another one; `open_` skips the search for references back."""
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, np.generic):
            return type(value), value.tobytes()
        if isinstance(value, _REFERENCES):
            return _Same(value)
        if id(value) not in self._memo:
            self._memo[id(value)] = _Same(value)  # for cycles
            self._memo[id(value)] = self._content(value, depth, open_)
        return self._memo[id(value)]

    def freeze_hooks(self, hooks: dict[Any, Any]) -> Any:
        """A copy of a table of hooks, which are compared by identity, because they may count or store tensors."""
        self.watch(hooks)
        return type(hooks), *((key, item if isinstance(item, bool) else _Same(item)) for key, item in hooks.items())

    def _content(self, value: Any, depth: int, open_: bool) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, (np.ndarray, bytearray)):
            return self._array(value)
        if depth >= _DEEPEST:
            return _Same(value)
        if isinstance(value, (*_CONTAINERS, dict)):
            if len(value) > _LONGEST:
                return _Same(value)
            self.watch(value)
            if not isinstance(value, dict):
                return type(value), *(self.freeze(item, depth + 1, open_=open_) for item in value)
            return type(value), *(
                (key if isinstance(key, _PLAIN) else _Same(key), self.freeze(item, depth + 1, open_=open_))
                for key, item in value.items()
            )
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return _Same(value), *(self.freeze(part, depth + 1, open_=open_) for part in parts)
        if _is_open(value) and (open_ or not self._leads_back(value)):
            parts = [self.freeze(part, depth + 1, open_=True) for part in _dictionaries(value)]
            names = _slots(type(value))
            if names:
                read = functools.partial(_read_slots, value, names)
                self._slotted.append(read)
                parts += [self.freeze(item, depth + 1, open_=True) for item in read()]
            return type(value), *parts
        return _Same(value)

    def _tensor(self, value: Tensor) -> _Same:
        if isinstance(value, nn.Parameter) and value.requires_grad:
            return _Same(value)  # subnets share it
        version, numbers = 0, None
        if not value.is_inference():
            version = value._version
            self._tensors.append(value)
        if type(value) is Tensor and value.layout == torch.strided:
            self._placed.append(value)
            plain = value.detach()
            small = plain.is_contiguous() and 0 < plain.nbytes <= _SMALL
            if small and plain.device.type == "cpu" and not (plain.is_conj() or plain.is_neg()):
                read = plain.reshape(-1).view(torch.uint8).numpy().tobytes
                self._readers.append(read)
                numbers = read()
        return _Same(value, (version, numbers))

    def _array(self, value: np.ndarray[Any, Any] | bytearray) -> _Same:
        if isinstance(value, bytearray):
            size, read = len(value), functools.partial(bytes, value)
        else:
            size, read = _SMALL + 1 if value.dtype.hasobject else value.nbytes, value.tobytes
        if size > _SMALL:
            return _Same(value)
        self._readers.append(read)
        return _Same(value, read())

    def _leads_back(self, value: Any) -> bool:
        """Whether an object contains modules of the tree, or is too large to search."""
        waiting, seen = [value], {id(value)}
        while waiting:
            each = waiting.pop()
            if id(each) in self._registered or len(seen) > _MOST:
                return True
            for part in _inside(each):
                if id(part) not in seen and not isinstance(part, (*_PLAIN, Tensor)):
                    seen.add(id(part))
                    waiting.append(part)
        return False

    def _now(self) -> tuple[Any, ...]:
        return (
            list(map(_version, self._tensors)),
            list(map(Tensor.data_ptr, self._placed)),
            [read() for read in self._readers],
        )


def _is_open(value: Any) -> bool:
    kind = type(value)
    if isinstance(value, _CLOSED):
        return False
    if isinstance(value, (nn.Module, types.SimpleNamespace, argparse.Namespace)):
        return True
    return kind.__module__.partition(".")[0] not in _CLOSED_PACKAGES


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, _REFERENCES):
        return ()
    if isinstance(value, dict):
        return value.values() if len(value) <= _LONGEST else ()
    if isinstance(value, _CONTAINERS):
        return value if len(value) <= _LONGEST else ()
    if isinstance(value, functools.partial):
        return value.func, value.args, value.keywords
    if isinstance(value, types.MethodType):
        return (value.__self__,)
    if not _is_open(value):
        return ()
    return *_dictionaries(value), *_read_slots(value, _slots(type(value)))


def _dictionaries(value: Any) -> tuple[dict[str, Any], ...]:
    content = getattr(value, "__dict__", None)
    return (content,) if isinstance(content, dict) else ()


@functools.cache
def _slots(kind: type) -> tuple[str, ...]:
    """The names of the slots of a class."""
    names: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else tuple(slots):
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                names.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return tuple(names)


def _read_slots(value: Any, names: tuple[str, ...]) -> list[Any]:
    return [getattr(value, name, MISSING) for name in names]
