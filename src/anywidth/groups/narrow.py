"""A copy of a module tree on other tensors: the surgery behind every subnet."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.groups.adapters import adapt
from anywidth.groups.analysis import Analysis, Kept
from anywidth.groups.trace import named_tensors

__all__ = ["Place", "is_leading", "narrow", "take"]

Place = Kept | Tensor
"""Kept positions of one dimension, whose indices may lie on a device already."""

Bind = Callable[[str, Tensor, Sequence[Kept]], Tensor]


def is_leading(kept: Sequence[Kept]) -> bool:
    """Whether the kept part is a leading block, so that a view can stand for it."""
    return all(k is None or isinstance(k, int) for k in kept)


def take(tensor: Tensor, kept: Sequence[Place]) -> Tensor:
    """The kept part of a tensor: a view if it is a leading block, else a copy."""
    for dim, k in enumerate(kept):
        if isinstance(k, int):
            tensor = tensor.narrow(dim, 0, k)
        elif k is not None:
            indices = k if isinstance(k, Tensor) else torch.from_numpy(k).to(tensor.device)
            tensor = tensor.index_select(dim, indices)
    return tensor


def narrow(model: nn.Module, analysis: Analysis, units: npt.NDArray[np.int64], bind: Bind) -> nn.Module:
    """A copy of `model` (same classes, same forward) whose tensors are what `bind` returns.

    `bind(name, tensor, kept)` is called once per parameter and buffer, by its first name. Integer attributes
    that forwards read (groups, normalised shapes, numbers of features) are set to fit.
    """
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model).items():
        if id(tensor) not in memo:
            memo[id(tensor)] = bind(name, tensor, analysis.kept(analysis.names[name], units))
    for module in model.modules():
        # Every module has a dozen of dicts for hooks, and copying empty ones takes most of the time.
        memo.update((id(value), OrderedDict()) for value in vars(module).values() if _is_empty(value))
    narrowed = copy.deepcopy(model, memo)
    for path, attributes in analysis.attributes.items():
        module = narrowed.get_submodule(path)
        for name, attribute in attributes.items():
            values = attribute.values(units)
            before = getattr(module, name)
            # Straight into the instance: some modules check in __setattr__, and properties stay what they are.
            module.__dict__[name] = type(before)(values) if isinstance(before, (tuple, list)) else values[0]
    for module in narrowed.modules():
        adapt(module)
        for name, value in vars(module).items():
            # A plain dict of tensors is a cache of the forward, filled at full width; it fills itself again.
            cache = type(value) is dict and name not in ("_parameters", "_buffers")
            if cache and value and all(isinstance(item, Tensor) for item in value.values()):
                value.clear()
    return narrowed


def _is_empty(value: Any) -> bool:
    return type(value) is OrderedDict and not value and not vars(value)
