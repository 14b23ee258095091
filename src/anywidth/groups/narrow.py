"""Copy a module tree with narrowed tensors, the basis of every subnet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.core.modules import named_tensors
from anywidth.groups.adapters import adapt, repeated
from anywidth.groups.analysis import Analysis, KeptIndices
from anywidth.groups.duplicate import duplicate

__all__ = ["TensorIndices", "is_leading", "narrow", "put_", "take"]

TensorIndices = KeptIndices | Tensor
"""Kept positions of one dimension, whose indices may already be on a device."""

Bind = Callable[[str, Tensor, Sequence[KeptIndices]], Tensor]


def is_leading(kept: Sequence[KeptIndices]) -> bool:
    """Whether the kept part is a leading block, which can be a view."""
    return all(k is None or isinstance(k, int) for k in kept)


def take(tensor: Tensor, kept: Sequence[TensorIndices]) -> Tensor:
    """The kept part of a tensor: a view if it is a leading block, else a copy."""
    for dim, k in enumerate(kept):
        if isinstance(k, int):
            tensor = tensor.narrow(dim, 0, k)
        elif k is not None:
            indices = k if isinstance(k, Tensor) else torch.from_numpy(k).to(tensor.device)
            tensor = tensor.index_select(dim, indices)
    return tensor


def put_(tensor: Tensor, kept: Sequence[TensorIndices], part: Tensor, *, accumulate: bool = False) -> None:
    """Write to the kept part of a tensor, or add to it; the counterpart of `take`.

    >>> tensor = torch.zeros(3, 2)
    >>> put_(tensor, [torch.tensor([0, 2]), 1], torch.ones(2, 1))
    >>> tensor.tolist()
    [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]
    """
    device = tensor.device
    grid = [
        torch.arange(size if k is None else k, device=device)
        if k is None or isinstance(k, int)
        else torch.as_tensor(k, device=device)
        for size, k in zip(tensor.shape, kept, strict=True)
    ]
    mesh = [g.reshape([-1 if i == d else 1 for i in range(len(grid))]) for d, g in enumerate(grid)]
    tensor.index_put_(tuple(mesh), part, accumulate=accumulate)


def narrow(
    model: nn.Module,
    analysis: Analysis,
    blocks: npt.NDArray[np.int64],
    bind: Bind,
    *,
    share: bool = False,
) -> nn.Module:
    """A copy of `model` (same classes, same forward) with the tensors that `bind` returns.

    `bind(name, tensor, kept)` is called once per parameter and buffer, by its first name. Integer attributes
    that forwards read (groups, normalised shapes, numbers of features) are set to fit, and what forwards wrote at full
    width is left behind. `share` is that of `duplicate`.
    """
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model).items():
        if id(tensor) not in memo and not _is_cache(name, analysis):
            memo[id(tensor)] = bind(name, tensor, analysis.kept(analysis.names[name], blocks))
    narrowed = duplicate(model, memo, analysis.written, share=share)
    chosen = list(_integers(narrowed, analysis, blocks))
    for module, name, value in chosen:
        # Written to the instance directly: some modules check in __setattr__, and properties must stay.
        module.__dict__[name] = value
    for module in narrowed.modules():
        adapt(module)
    for module, name, value in chosen:  # adapters only know the shapes
        module.__dict__[name] = value
    return narrowed


def _integers(
    narrowed: nn.Module, analysis: Analysis, blocks: npt.NDArray[np.int64]
) -> Iterator[tuple[nn.Module, str, Any]]:
    """The integers that follow channels, and those that an adapter must leave alone."""
    for path, attributes in analysis.attributes.items():
        module = narrowed.get_submodule(path)
        for name, attribute in attributes.items():
            values = attribute.values(blocks)
            before = getattr(module, name)
            yield module, name, type(before)(values) if isinstance(before, (tuple, list)) else values[0]
    for alone in analysis.coincidences:
        module = narrowed.get_submodule(alone.module)
        follows = alone.attribute in analysis.attributes.get(alone.module, {})
        if not follows and alone.attribute in repeated(type(module)):
            yield module, alone.attribute, getattr(module, alone.attribute)


def _is_cache(name: str, analysis: Analysis) -> bool:
    """Whether a buffer was created by a forward."""
    path, _, last = name.rpartition(".")
    return last in analysis.written.get(path, {}).get("_buffers", {})
