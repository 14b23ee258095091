"""Inputs of other sizes and with other numbers than the example."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.core.inputs import Inputs
from anywidth.groups.prover import Prover

__all__ = ["MOST_PROOFS", "inputs_with_other_calls", "other_inputs"]

_LARGEST = 1 << 20
"""Maximum number of elements of larger inputs to try, unless the example is as large."""
_NUMBERS = 6
"""Maximum number of integers of the code to try as sizes."""
MOST_PROOFS = 3
"""Maximum number of other inputs with a second proof."""


def other_inputs(inputs: Inputs, values: Sequence[tuple[int, int]]) -> Iterator[Inputs]:
    """Other inputs that may distinguish these integers: with such numbers, longer, shorter, more samples."""
    if not values:
        return
    yield from _with_numbers(inputs, values)
    leaves = inputs.tensors()
    tried: set[tuple[frozenset[tuple[int, int]], int]] = set()
    for size, places in _sizes(leaves):
        wanted = [between for full, narrowed in values for between in ((full + narrowed + 1) // 2, full)]
        longer = max(4, 2 * size) if size < 128 else size + size // 7
        for new in dict.fromkeys([*wanted, longer, size // 2]):
            numel = sum(tensor.numel() for tensor in leaves)
            grown = numel * (new / size) ** max(1, max(sum(i == n for n, _ in places) for i in range(len(leaves))))
            if 0 < new != size and grown <= max(_LARGEST, 2 * numel) and (places, new) not in tried:
                tried.add((places, new))
                yield _resized(inputs, places, new)
    batch = frozenset((i, 0) for i, tensor in enumerate(leaves) if tensor.ndim)
    yield _resized(inputs, batch, leaves[0].shape[0] + 1 if leaves[0].ndim else 2)


def inputs_with_other_calls(model: nn.Module, prover: Prover, inputs: Inputs) -> Iterator[Inputs]:
    """Inputs of other sizes for which the full network calls different functions than for the example."""
    if prover.compared is None:
        return
    usual = prover.ways.usual
    leaves = inputs.tensors()
    beside = [near for number in sorted(prover.compared)[:_NUMBERS] for near in (number, number + 1)]
    others = [
        _resized(inputs, places, new)
        for size, places in _sizes(leaves)
        for new in dict.fromkeys((2 * size, size // 2, *beside))
        if new
    ]
    batch = frozenset((i, 0) for i, tensor in enumerate(leaves) if tensor.ndim)
    rows = max((tensor.shape[0] for tensor in leaves if tensor.ndim), default=0)
    others += [_resized(inputs, batch, new) for new in dict.fromkeys((1, rows + 1, *beside)) if batch and new != rows]
    seen = {usual, None}
    for other in others if usual is not None else ():
        numel = sum(tensor.numel() for tensor in other.tensors())
        if numel > max(_LARGEST, 4 * sum(tensor.numel() for tensor in leaves)):
            continue
        called = prover.ways.full(other)
        if called not in seen and len(seen) < 2 + MOST_PROOFS:
            seen.add(called)
            yield other


def _sizes(tensors: Sequence[Tensor]) -> list[tuple[int, frozenset[tuple[int, int]]]]:
    """Sizes of dimensions after the first, with their places: all, or the first or last of each tensor."""
    found: dict[tuple[int, frozenset[tuple[int, int]]], None] = {}
    for size in dict.fromkeys(s for tensor in tensors for s in tensor.shape[1:] if s):
        places = [[d for d in range(1, t.ndim) if t.shape[d] == size] for t in tensors]
        found[size, frozenset((i, d) for i, dims in enumerate(places) for d in dims)] = None
        for end in (0, -1) if all(t.ndim < 4 for t in tensors) else ():  # images are resized in both directions
            found[size, frozenset((i, dims[end]) for i, dims in enumerate(places) if dims)] = None
    return list(found)


def _resized(inputs: Inputs, places: frozenset[tuple[int, int]], size: int) -> Inputs:
    """Inputs with resized dimensions: cut, or repeated from the start."""
    count = iter(range(len(inputs.tensors())))

    def resize(tensor: Tensor) -> Tensor:
        i = next(count)
        for dim in range(tensor.ndim):
            if (i, dim) in places:
                positions = torch.arange(size, device=tensor.device) % tensor.shape[dim]
                tensor = tensor.index_select(dim, positions)
        return tensor

    return inputs.map(resize)


def _with_numbers(inputs: Inputs, values: Sequence[tuple[int, int]]) -> Iterator[Inputs]:
    """Integers in the inputs, replaced by the full and by the narrowed value of an attribute."""
    if not any(_counts(tensor) for tensor in inputs.tensors()):
        return

    def replaced(numbers: tuple[int, int]) -> Any:
        def put(tensor: Tensor) -> Tensor:
            if not _counts(tensor):
                return tensor
            tensor = tensor.clone()
            flat = tensor.reshape(tensor.shape[0], -1)
            flat[:, -1] = numbers[0]
            flat[:, : flat.shape[1] // 2 : 2] = numbers[1]
            return flat.reshape(tensor.shape)

        return put

    for numbers in values:
        yield inputs.map(replaced(numbers))


def _counts(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.int64, torch.int32) and tensor.ndim > 0 and tensor.shape[0] > 0
