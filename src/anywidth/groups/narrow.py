"""A copy of a module tree on other tensors: the surgery behind every subnet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.core.modules import named_tensors
from anywidth.groups.adapters import adapt, repeated
from anywidth.groups.analysis import Analysis, Kept
from anywidth.groups.duplicate import duplicate

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


def narrow(
    model: nn.Module,
    analysis: Analysis,
    units: npt.NDArray[np.int64],
    bind: Bind,
    *,
    share_leaves: bool = False,
) -> nn.Module:
    """A copy of `model` (same classes, same forward) whose tensors are what `bind` returns.

    `bind(name, tensor, kept)` is called once per parameter and buffer, by its first name. Integer attributes
    that forwards read (groups, normalised shapes, numbers of features) are set to fit, and what forwards wrote at full
    width is left behind. `share_leaves` is that of `duplicate`.
    """
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model).items():
        if id(tensor) not in memo and not _is_cache(name, analysis):
            memo[id(tensor)] = bind(name, tensor, analysis.kept(analysis.names[name], units))
    narrowed = duplicate(model, memo, analysis.written, share_leaves=share_leaves)
    chosen = list(_integers(narrowed, analysis, units))
    for module, name, value in chosen:
        # Straight into the instance: some modules check in __setattr__, and properties stay what they are.
        module.__dict__[name] = value
    for module in narrowed.modules():
        adapt(module)
    for module, name, value in chosen:  # adapters know of the shapes alone
        module.__dict__[name] = value
    return narrowed


def _integers(
    narrowed: nn.Module, analysis: Analysis, units: npt.NDArray[np.int64]
) -> Iterator[tuple[nn.Module, str, Any]]:
    """The integers that follow channels, and those that an adapter must leave alone."""
    for path, attributes in analysis.attributes.items():
        module = narrowed.get_submodule(path)
        for name, attribute in attributes.items():
            values = attribute.values(units)
            before = getattr(module, name)
            yield module, name, type(before)(values) if isinstance(before, (tuple, list)) else values[0]
    for alone in analysis.coincidences:
        module = narrowed.get_submodule(alone.module)
        follows = alone.attribute in analysis.attributes.get(alone.module, {})
        if not follows and alone.attribute in repeated(type(module)):
            yield module, alone.attribute, getattr(module, alone.attribute)


def _is_cache(name: str, analysis: Analysis) -> bool:
    """Whether a buffer is one that a forward made."""
    path, _, last = name.rpartition(".")
    return last in analysis.written.get(path, {}).get("_buffers", {})
