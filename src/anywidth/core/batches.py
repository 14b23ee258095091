"""Batches of a loader, split into inputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from anywidth.core.errors import DataError
from anywidth.core.inputs import Inputs, normalise_inputs

__all__ = ["first_samples", "join_inputs", "run_batches", "samples", "split_batch"]


def split_batch(batch: Any, device: torch.device | None = None) -> tuple[Inputs, Any]:
    """Inputs and targets of a batch, moved to a device.

    A pair is (inputs, targets). The `labels` of a mapping are the targets, its other entries keyword arguments. A
    single tensor has no targets (None). Inputs may themselves be a tuple of arguments or a mapping.
    """
    if device is not None:
        batch = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device, non_blocking=True), batch)
    if isinstance(batch, Tensor):
        return normalise_inputs(batch), None
    if isinstance(batch, Mapping):
        rest = {key: value for key, value in batch.items() if key != "labels"}
        return normalise_inputs(rest), batch.get("labels")
    if isinstance(batch, (tuple, list)) and len(batch) == 1:
        return normalise_inputs(batch[0]), None
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        return normalise_inputs(batch[0]), batch[1]
    raise DataError(
        f"a loader returned a {type(batch).__name__} of {len(batch) if hasattr(batch, '__len__') else '?'} items; "
        "it must return (inputs, targets) pairs, tensors, or mappings with 'labels'"
    )


def samples(inputs: Inputs) -> int:
    """Number of samples of a batch; 0 without a tensor that has dimensions."""
    return next((tensor.shape[0] for tensor in inputs.tensors() if tensor.ndim), 0)


def first_samples(
    loader: Iterable[Any], count: int | None, device: torch.device | None = None
) -> Iterator[tuple[Inputs, Any]]:
    """Batches of a loader, split, up to a number of samples; None for all. Empty batches are skipped.

    >>> batches = [(torch.zeros(4, 2), torch.zeros(4)), (torch.zeros(4, 2), torch.zeros(4))]
    >>> [len(targets) for _, targets in first_samples(batches, 6)]
    [4, 2]
    """
    seen = 0
    for batch in loader:
        inputs, targets = split_batch(batch, device)
        left = None if count is None else count - seen
        if left is not None and samples(inputs) > left:
            inputs, targets = inputs.map(_cut(left)), pytree.tree_map_only(Tensor, _cut(left), targets)
        seen += samples(inputs)
        if samples(inputs):
            yield inputs, targets
        if count is not None and seen >= count:
            return


def run_batches(
    run: Callable[[Inputs], Any], loader: Iterable[Any], device: torch.device | None = None
) -> Iterator[tuple[Inputs, Any, Any]]:
    """Inputs, targets and output of every batch of a loader.

    Args:
        run: Returns the output for the inputs of a batch.
        loader: Batches as in `split_batch`.
        device: Device of inputs and targets; by default they stay where they are.

    >>> batches = [(torch.ones(4, 2), torch.zeros(4))]
    >>> [output.shape for _, _, output in run_batches(lambda inputs: inputs.args[0].sum(1), batches)]
    [torch.Size([4])]
    """
    for batch in loader:
        inputs, targets = split_batch(batch, device)
        yield inputs, targets, run(inputs)


def join_inputs(batches: Sequence[Inputs]) -> Inputs:
    """A single batch with the samples of one or more batches."""
    rest = [iter(batch.tensors()) for batch in batches]

    def join(_: Tensor) -> Tensor:
        parts = [next(tensors) for tensors in rest]
        return torch.cat(parts) if parts[0].ndim else parts[0]

    return batches[0].map(join)


def _cut(count: int) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[:count] if tensor.ndim else tensor
