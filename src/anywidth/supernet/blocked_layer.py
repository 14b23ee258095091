"""Convolutions and linear layers of nested networks that skip their zero blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.groups.adapters import adapt
from anywidth.groups.later_shells import LaterEntries

__all__ = ["Blocked", "Layer", "is_hooked", "is_plain_layer", "split_layer"]

_CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
Layer = nn.Linear | nn.modules.conv._ConvNd
Positions = npt.NDArray[np.int64]


class Blocked(nn.Module):
    """A convolution or linear layer that computes one product per part of its output channels.

    Each part reads the input channels of its own and earlier shells only. It reads as the layer that it stands for:
    `weight`, `bias` and the sizes are those of that layer.

    Args:
        layer: The layer, whose weight has zero blocks.
        later: Where they are, in the positions of this layer.
        ends: The last shell of every part, in ascending order.

    Attributes:
        parts: Layers of the same class, one per part.
    """

    read: Tensor | None
    written: Tensor | None
    _in_dim: int
    _out_dim: int
    _dim: int

    def __init__(self, layer: Layer, later: LaterEntries, ends: Sequence[int]) -> None:
        super().__init__()
        for name in layer.__constants__:
            setattr(self, name, getattr(layer, name))
        self._out_dim, self._in_dim = later.out_dim, later.in_dim
        self._dim = -1 if isinstance(layer, nn.Linear) else 1 - layer.weight.ndim  # samples may come without a batch
        rows, columns = (np.searchsorted(ends, shells) for shells in (later.rows, later.columns))
        read, made = np.argsort(columns, kind="stable"), np.argsort(rows, kind="stable")
        self.parts, self._columns = nn.ModuleList(), columns.size
        self._reads: list[int] = []
        for number in np.unique(rows):
            mine, prefix = np.flatnonzero(rows == number), read[: int((columns <= number).sum())]
            self.parts.append(_part(layer, later, mine, prefix))
            self._reads.append(prefix.size)
        device = layer.weight.device
        self.register_buffer("read", _order(read, device), persistent=False)
        self.register_buffer("written", _order(np.argsort(made), device), persistent=False)
        self.train(layer.training)

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """The output of the layer that this one stands for."""
        if self.read is not None:
            x = x.index_select(self._dim, self.read)
        size = x.shape[self._dim]
        parts = [
            part(x if reads == size else x.narrow(self._dim, 0, reads), *arguments)
            for part, reads in zip(self.parts, self._reads, strict=True)
        ]
        made = torch.cat(parts, self._dim)
        return made if self.written is None else made.index_select(self._dim, self.written)

    @property
    def weight(self) -> Tensor:
        """The whole weight, with its zero blocks."""
        weights = [part.get_parameter("weight") for part in self.parts]
        whole = []
        for weight in weights:
            shape = list(weight.shape)
            shape[self._in_dim] = self._columns - shape[self._in_dim]
            whole.append(torch.cat([weight, weight.new_zeros(shape)], self._in_dim))
        found = torch.cat(whole, self._out_dim)
        if self.read is not None:
            found = found.index_select(self._in_dim, torch.argsort(self.read))
        return found if self.written is None else found.index_select(self._out_dim, self.written)

    @property
    def bias(self) -> Tensor | None:
        """The whole bias."""
        biases: list[Tensor] = [b for part in self.parts if (b := part._parameters.get("bias")) is not None]
        if not biases:
            return None
        found = torch.cat(biases)
        return found if self.written is None else found.index_select(0, self.written)


def split_layer(layer: Layer, later: LaterEntries, work: int, smallest: int) -> Blocked | None:
    """The layer in parts that read the channels that are not zero for them; None if it is better left whole.

    Args:
        layer: The layer.
        later: Its zero blocks.
        work: How many products with every entry of rows and columns a call computes, for kernels of one position.
        smallest: MACs that one more part has to save.
    """
    if not later.blocks:
        return None
    ends = _ends(later, work * layer.weight.numel() / (later.rows.size * later.columns.size), smallest)
    return None if ends is None else Blocked(layer, later, ends)


def is_hooked(module: nn.Module) -> bool:
    """Whether something hooks into a module."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)


def is_plain_layer(layer: nn.Module) -> TypeGuard[Layer]:
    """Whether a layer is one of torch's own that can be cut along channels, and nothing hooks into it."""
    if is_hooked(layer):
        return False
    if isinstance(layer, nn.Linear):
        return type(layer).forward is nn.Linear.forward
    return isinstance(layer, nn.modules.conv._ConvNd) and type(layer) in _CONVOLUTIONS and layer.groups == 1


def _ends(later: LaterEntries, work: float, smallest: int) -> list[int] | None:
    """The last shells of the parts that cost least, at `smallest` MACs per part; None if that is the whole layer.

    `work` is the number of products with one entry of rows and columns.
    """
    shells = [-1, *np.unique(later.rows).tolist()]
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for end in shells[1:]:
        columns = int((later.columns <= end).sum())
        choices = []
        for (cost, ends), low in zip(best, shells, strict=False):
            rows = int(((later.rows > low) & (later.rows <= end)).sum())
            choices.append((cost + rows * columns * work + smallest, [*ends, end]))
        best.append(min(choices))
    ends = best[-1][1]
    return ends if len(ends) > 1 or (later.columns > ends[-1]).any() else None


def _part(layer: Layer, later: LaterEntries, rows: Positions, columns: Positions) -> nn.Module:
    """A layer of the same class that makes some channels from some channels."""
    part = copy.copy(layer)
    part._parameters, part._buffers = dict(layer._parameters), dict(layer._buffers)
    device = layer.weight.device
    weight, bias = layer._parameters["weight"], layer._parameters.get("bias")
    assert weight is not None
    weight_part = weight.detach().index_select(later.out_dim, torch.from_numpy(rows).to(device))
    weight_part = weight_part.index_select(later.in_dim, torch.from_numpy(columns).to(device))
    part._parameters["weight"] = nn.Parameter(weight_part.contiguous(), requires_grad=weight.requires_grad)
    if bias is not None:
        bias_part = bias.detach().index_select(0, torch.from_numpy(rows).to(device))
        part._parameters["bias"] = nn.Parameter(bias_part, requires_grad=bias.requires_grad)
    adapt(part)
    return part


def _order(positions: Positions, device: torch.device) -> Tensor | None:
    """A permutation; None if it changes nothing."""
    if (positions == np.arange(positions.size)).all():
        return None
    return torch.from_numpy(positions).to(device)
