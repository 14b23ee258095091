"""The order of channels: subnets keep the first channels of every group, so important ones move to the front."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.core.errors import NoEffectWarning, WidthError
from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors
from anywidth.core.tensors import tensors_in
from anywidth.groups import Analysis, ChannelGroup
from anywidth.groups.duplicate import duplicate
from anywidth.groups.effects import is_dropout
from anywidth.groups.tensor_stand_ins import stand_ins
from anywidth.groups.untouched import untouched

__all__ = ["Order", "l1_importance", "reorder_"]

Order = Literal["l1"] | Callable[[ChannelGroup, Mapping[str, Tensor]], Tensor]
"""Importance of the channels of a group: `order(group, parts)` returns one number per block, shape (blocks,).

`parts` contains every parameter that follows the group, by name of the dimension (`conv.weight[0]`), with shape
(blocks, numbers of each)."""

_TOLERANCE = 1e-4


def l1_importance(group: ChannelGroup, parts: Mapping[str, Tensor]) -> Tensor:
    """The L1 norm of all weights that make or read a block, divided by the mean of each tensor; shape (blocks,).

    Source: Pruning Filters for Efficient ConvNets (arXiv 1608.08710), summed over coupled layers.

    >>> group = ChannelGroup(name="conv", channels=2)
    >>> l1_importance(group, {"conv.weight[0]": torch.tensor([[1.0, -1.0], [3.0, 3.0]])})
    tensor([0.5000, 1.5000])
    """
    # A bias does not show how important a channel is.
    norms = [part.abs().mean(1) for name, part in parts.items() if not name.partition("[")[0].endswith("bias")]
    return sum((norm / norm.mean().clamp(min=1e-30) for norm in norms), torch.zeros(group.blocks))


@torch.no_grad()
def reorder_(model: nn.Module, analysis: Analysis, inputs: Inputs, order: Order) -> None:
    """Permute the channels of every elastic group in place, the most important first; the function stays the same.

    This is checked on the example inputs and on twice as many, in evaluation and in training mode (without dropout, and
    unless the forward draws random numbers). A group whose channels cannot be permuted keeps its order, with a warning.
    Gradients are permuted with their parameters.

    Args:
        model: The full network.
        analysis: Its channel groups.
        inputs: Example inputs.
        order: "l1", or a function; see `Order`.

    Raises:
        WidthError: `order` is an unknown name, or does not return one finite number per block.
    """
    if isinstance(order, str) and order != "l1":
        raise WidthError(f"order is {order!r}; give 'l1', or a function of a group and its parameters")
    measure = l1_importance if isinstance(order, str) else order
    tensors = named_tensors(model)
    moves: dict[str, _Move] = {}
    stay = []
    for number, group in enumerate(analysis.groups):
        if group.frozen is None:
            members = list(_members(analysis, number))
            ranking = _ranking(group, _parts(tensors, members), measure)
            if all(len(positions) == group.blocks for _, _, positions in members):
                moves[group.name] = _move(analysis, members, ranking)
            else:
                stay.append(group.name)
    with untouched(model):
        before = _outputs(model, analysis, inputs)
        if not _moved(model, analysis, inputs, tensors, list(moves.values()), before):
            for name, move in moves.items():
                if not _moved(model, analysis, inputs, tensors, [move], before):
                    stay.append(name)
    if stay:
        warnings.warn(
            f"the channels of {', '.join(stay)} cannot be permuted and keep their order",
            NoEffectWarning,
            stacklevel=3,
        )


_Move = dict[tuple[str, int], npt.NDArray[np.int64]]
"""For every dimension of a tensor: the old position at each new one."""

_Member = tuple[str, int, npt.NDArray[np.int64]]
"""A dimension that follows a group: tensor, dimension, and positions as (blocks, positions of each)."""


def _members(analysis: Analysis, number: int) -> Iterable[_Member]:
    """Every dimension that follows a group; a single row of positions if blocks have different numbers of them."""
    blocks = analysis.groups[number].blocks
    for name, axes in analysis.axes.items():
        for dim, axis in enumerate(axes):
            if axis is None or not (axis.group == number).any():
                continue
            positions = np.flatnonzero(axis.group == number)
            indices = axis.index[positions]
            counts = np.bincount(indices, minlength=blocks)
            rows = blocks if (counts == counts[0]).all() else 1
            yield name, dim, positions[np.argsort(indices, kind="stable")].reshape(rows, -1)


def _parts(tensors: Mapping[str, Tensor], members: Iterable[_Member]) -> dict[str, Tensor]:
    parts = {}
    for name, dim, positions in members:
        if isinstance(tensors[name], nn.Parameter) and len(positions) > 1:
            tensor = tensors[name].detach().movedim(dim, 0)
            parts[f"{name}[{dim}]"] = tensor[torch.from_numpy(positions)].flatten(1).float().cpu()
    return parts


def _ranking(group: ChannelGroup, parts: Mapping[str, Tensor], measure: Callable[..., Tensor]) -> npt.NDArray[np.int64]:
    """The blocks in their new order."""
    scores = torch.as_tensor(measure(group, parts))
    if scores.shape != (group.blocks,) or not bool(torch.isfinite(scores).all()):
        raise WidthError(
            f"order gave {tuple(scores.shape)} numbers for the {group.blocks} blocks of group {group.name!r}, or some "
            "that are not finite; give one finite number per block"
        )
    return torch.sort(scores, descending=True, stable=True).indices.numpy()


def _move(analysis: Analysis, members: Iterable[_Member], ranking: npt.NDArray[np.int64]) -> _Move:
    move: _Move = {}
    for name, dim, positions in members:
        index = np.arange(analysis.shapes[name][dim])
        index[positions.reshape(-1)] = positions[ranking].reshape(-1)
        move[name, dim] = index
    return move


def _apply(tensors: Mapping[str, Tensor], moves: Iterable[_Move]) -> None:
    for move in moves:
        for (name, dim), index in move.items():
            tensor = tensors[name]
            tensor.copy_(tensor.index_select(dim, torch.from_numpy(index).to(tensor.device)))


def _moved(
    model: nn.Module,
    analysis: Analysis,
    inputs: Inputs,
    tensors: Mapping[str, Tensor],
    moves: Sequence[_Move],
    before: _Outputs,
) -> bool:
    """Permute channels and return whether that worked; otherwise, or after an error, they are restored."""
    same = False
    # Restored from copies instead of the inverse order: two parameters may share memory.
    values = {name: tensors[name].clone() for move in moves for name, _ in move}
    try:
        _apply(tensors, moves)
        after = _outputs(model, analysis, inputs)
        same = all(
            ours is None or (theirs is not None and _same(ours, theirs))
            for ours, theirs in zip(before, after, strict=True)
        )
    finally:
        if not same:
            for name, value in values.items():
                tensors[name].copy_(value)
    if same:
        grads = {name: tensor.grad for name, tensor in tensors.items() if tensor.is_leaf and tensor.grad is not None}
        _apply(grads, [{key: index for key, index in move.items() if key[0] in grads} for move in moves])
    return same


_Outputs = list[list[Tensor] | None]
"""Outputs of a model for several kinds of calls; None if it does not run, or draws random numbers."""


def _outputs(model: nn.Module, analysis: Analysis, inputs: Inputs) -> _Outputs:
    double = _twice(inputs)
    found: _Outputs = [_run(model, analysis, inputs, training=False)]
    for training in (False, True):
        runs = []
        for seed in (0, 1):
            with suppress(Exception), torch.random.fork_rng():
                torch.manual_seed(seed)
                runs.append(_run(model, analysis, double, training=training))
        found.append(runs[0] if len(runs) == 2 and _same(*runs) else None)
    return found


def _twice(inputs: Inputs) -> Inputs:
    leading = {tensor.shape[:1] for tensor in inputs.tensors() if tensor.ndim}
    return inputs.map(lambda t: torch.cat([t, t]) if t.ndim else t) if len(leading) == 1 else inputs


def _run(model: nn.Module, analysis: Analysis, inputs: Inputs, *, training: bool) -> list[Tensor]:
    twin = duplicate(model, stand_ins(model, buffers=True), analysis.written)
    twin.train(training)
    for module in twin.modules():
        if is_dropout(module):
            module.eval()
    result = inputs.map(torch.clone).call(twin)
    return [tensor for tensor in tensors_in(result) if tensor.is_floating_point()]


def _same(before: list[Tensor], after: list[Tensor]) -> bool:
    return all(
        float((a - b).abs().max()) <= _TOLERANCE * max(float(a.abs().max()), 1e-30)
        for a, b in zip(before, after, strict=True)
        if a.numel()
    )
