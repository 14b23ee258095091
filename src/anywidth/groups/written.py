"""Attributes that a forward writes: caches, auxiliary losses, lists of features.

Values written by the full network must not reach a subnet, which starts from the values before any forward.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from functools import cached_property
from inspect import getattr_static
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.groups.duplicate import MISSING, duplicate_value

__all__ = ["Marks", "Written", "emptied", "empty_", "holds_tensors", "refilled", "written_since"]

Written = dict[str, dict[str, Any]]
"""By module path and attribute: the initial value in a copy (`MISSING`: no such attribute)."""

_REGISTERS = frozenset({"_parameters", "_modules", "_buffers", "training"})
_SIMPLE = (bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)
_DEPTH = 4


class Marks:
    """The state of all attributes of a module tree, to compare with a later state."""

    def __init__(self, model: nn.Module) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}  # with the object itself, because ids are reused
        self.of = {path: dict(self._attributes(module)) for path, module in model.named_modules()}
        self.buffers = {
            path: {name: None if b is None else (id(b), b.shape) for name, b in module._buffers.items()}
            for path, module in model.named_modules()
        }

    def _attributes(self, module: nn.Module) -> Iterator[tuple[str, Any]]:
        for name, value in module.__dict__.items():
            if name not in _REGISTERS and not name.endswith("_hooks"):
                yield name, self._mark(value)

    def _mark(self, value: Any, depth: int = 0) -> Any:
        """A mark that equals a later one if nothing was written in between."""
        if value is None or isinstance(value, _SIMPLE):
            return type(value), str(value)
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        mark: tuple[Any, ...] = (id(value),)
        self._known[id(value)] = value, mark
        if isinstance(value, Tensor):
            mark = (*mark, value._version)
        elif depth < _DEPTH:
            mark = (*mark, *((key, self._mark(item, depth + 1)) for key, item in _parts(value)))
        self._known[id(value)] = value, mark
        return mark


def written_since(before: Marks, model: nn.Module, original: nn.Module) -> Written:
    """Attributes that forwards of `model` have written since, with their values in `original`.

    If a module wrote a tensor, all attributes that it wrote belong together (such as a grid, and the shape for which it
    was made). Otherwise only new numbers count, such as a size that the first forward sets, and copies take the current
    counters and flags.
    """
    found: Written = {}
    after = Marks(model)
    originals = dict(original.named_modules())
    for path, module in model.named_modules():
        if path not in before.of or path not in originals:
            continue
        source = originals[path].__dict__
        old, new = before.of[path], after.of[path]
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        values: dict[str, Any] = {}
        if any(holds_tensors(owner.get(name)) for name in changed for owner in (module.__dict__, source)):
            values = {name: duplicate_value(source[name]) if name in source else MISSING for name in changed}
        else:
            lazy = [name for name in changed if source.get(name) is None and _is_size(module.__dict__.get(name))]
            values = {name: None if name in source else MISSING for name in lazy}
        buffers = {
            name: source["_buffers"].get(name, MISSING)
            for name, mark in after.buffers[path].items()
            if mark is not None and before.buffers[path].get(name) is None
        }
        if buffers:
            values["_buffers"] = buffers
        if values:
            found[path] = values
    return found


def empty_(model: nn.Module, written: Mapping[str, Mapping[str, Any]]) -> None:
    """Give attributes that forwards write the values that copies begin with."""
    for path, names in written.items():
        module = model.get_submodule(path)
        for name, value in names.items():
            if name == "_buffers":
                _set(module._buffers, value)
            else:
                _set(module.__dict__, {name: value})


def _set(owner: dict[str, Any], values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value is MISSING:
            owner.pop(name, None)
        else:
            owner[name] = duplicate_value(value)


def emptied(model: nn.Module, written: Written) -> list[tuple[str, str, Any]]:
    """Attributes with tensors that no forward has written, and their empty values: caches or constants."""
    found: list[tuple[str, str, Any]] = []
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            plain = name not in _REGISTERS and not name.endswith("_hooks") and name not in written.get(path, {})
            if plain and isinstance(getattr_static(type(module), name, None), cached_property):
                found.extend([(path, name, MISSING)] if holds_tensors(value) else [])
            elif plain and isinstance(value, Tensor):
                found.append((path, name, None))
            elif plain and type(value) in (dict, list, deque) and value and holds_tensors(value):
                found.append((path, name, type(value)()))
    return found


def refilled(full: Any, now: Any) -> bool:
    """Whether an emptied attribute is as full as before."""
    if isinstance(full, Tensor):
        return isinstance(now, Tensor) and now.shape == full.shape
    if isinstance(full, tuple):
        return isinstance(now, tuple) and len(now) == len(full) and all(map(refilled, full, now))
    if type(now) is not type(full) or not holds_tensors(now):
        return False
    return list(now) == list(full) if isinstance(full, dict) else len(now) == len(full)


def holds_tensors(value: Any, depth: int = 0) -> bool:
    """Whether a value is a tensor, or contains one."""
    if isinstance(value, Tensor):
        return True
    return depth < _DEPTH and any(holds_tensors(item, depth + 1) for _, item in _parts(value))


def _is_size(value: Any) -> bool:
    """Whether a value is an integer, or several."""
    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(_is_size, value))
    return isinstance(value, int) and not isinstance(value, bool)


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """The contents of a container or a data object."""
    if isinstance(value, (*_SIMPLE, nn.Module, ModuleType, type)) or callable(value):
        return []
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, (list, tuple, deque)):
        return list(enumerate(value))
    if isinstance(value, (set, frozenset)):
        return [(id(item), item) for item in value]
    return list(getattr(value, "__dict__", {}).items())
