"""A deep fingerprint of a model: everything that building a supernet has to leave as it was."""

from __future__ import annotations

import functools
import hashlib
import random
import types
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["fingerprint"]

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size)


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """By place: every attribute of every module and of its classes, tensors by identity and content, global state."""
    found: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
        "torch": _digest(torch.random.get_rng_state()),
        "grad": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }
    seen: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        _describe(module.__dict__, path, found, seen)
        for kind in type(module).__mro__:
            if not kind.__module__.startswith(("torch.", "builtins")):
                for name, value in vars(kind).items():
                    place = f"class {kind.__qualname__}.{name}"
                    if callable(value) or hasattr(value, "__get__"):
                        found[place] = id(value)
                    elif not name.startswith("__"):
                        _describe(value, place, found, seen)
    return found


def _describe(value: Any, place: str, found: dict[str, Any], seen: dict[int, str]) -> None:
    if isinstance(value, _SIMPLE):
        found[place] = repr(value)
        return
    if id(value) in seen:
        found[place] = f"see {seen[id(value)]}"
        return
    seen[id(value)] = place
    found[place] = type(value), id(value)
    if isinstance(value, Tensor):
        graph = id(value.grad_fn) if value.grad_fn is not None else None
        grad = None if not value.is_leaf or value.grad is None else (id(value.grad), _digest(value.grad))
        hooks = [list(value._backward_hooks)] if value.is_leaf and value._backward_hooks else None
        found[place] = (
            type(value), id(value), value.data_ptr(), value.requires_grad, graph, grad, hooks, value._version,
            _digest(value),
        )  # fmt: skip
    elif isinstance(value, np.ndarray):
        found[place] = id(value), value.tobytes()
    elif isinstance(value, Mapping):
        found[f"{place} keys"] = [repr(key) for key in value]
        for key, item in list(value.items()):
            _describe(item, f"{place}[{key!r}]", found, seen)
    elif isinstance(value, (list, tuple, deque)):
        for number, item in enumerate(value):
            _describe(item, f"{place}[{number}]", found, seen)
    elif isinstance(value, (set, frozenset)):
        found[place] = id(value), sorted(map(repr, value))
    elif isinstance(value, types.FunctionType):
        for number, cell in enumerate(value.__closure__ or ()):
            _describe(cell.cell_contents, f"{place} closure {number}", found, seen)
    elif isinstance(value, functools.partial):
        _describe([value.func, value.args, value.keywords], f"{place} partial", found, seen)
    elif not isinstance(value, (nn.Module, types.ModuleType, weakref.ReferenceType)) and hasattr(value, "__dict__"):
        _describe(vars(value), f"{place}.", found, seen)


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(content.view(torch.uint8).numpy().tobytes() if content.numel() else b"").hexdigest()
