"""Whether weights have changed since statistics were computed; `checkpoint_format.py` has the digest of files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["MemorySamples", "WeightSamples", "memory_as_integers", "weight_digest"]

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SAMPLES = 3


@torch.no_grad()
def weight_digest(tensors: Sequence[Tensor]) -> bytes:
    """A digest of all numbers of some tensors, independent of their device and memory layout.

    The bits of every tensor, arranged as a square of integers, are summed exactly by rows and by columns. That takes
    about as long as copying the tensors.

    >>> weight = torch.ones(4, 4)
    >>> before = weight_digest([weight])
    >>> weight.data[2, 3] = 1.0000001
    >>> weight_digest([weight]) == before
    False
    """
    sums: dict[torch.device, list[Tensor]] = {}
    hashed = hashlib.blake2b(digest_size=16)
    with torch.inference_mode(False):
        for tensor in tensors:
            hashed.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            if tensor.numel() and not tensor.is_meta:
                bits = _integers(tensor)
                rows = max(d for d in range(1, min(512, math.isqrt(bits.numel())) + 1) if bits.numel() % d == 0)
                square = bits.view(rows, -1)
                sums.setdefault(tensor.device, []).extend(
                    (square.sum(0, dtype=torch.int64), square.sum(1, dtype=torch.int64))
                )
    for parts in sums.values():
        hashed.update(torch.cat(parts).cpu().numpy().tobytes())
    return hashed.digest()


def _integers(tensor: Tensor) -> Tensor:
    flat = tensor.detach()
    flat = torch.view_as_real(flat) if flat.is_complex() else flat
    flat = flat.contiguous().view(-1)
    size = flat.element_size()
    while size < 8 and flat.numel() % 2 == 0 and flat.storage_offset() * flat.element_size() % (size * 2) == 0:
        size *= 2
        if flat.numel() * flat.element_size() % size:
            size //= 2
            break
    return flat.view(_INTEGERS[size])


def memory_as_integers(tensor: Tensor) -> npt.NDArray[Any] | None:
    """The memory of a tensor on the CPU, as integers of the size of its numbers; None for any other tensor.

    >>> memory_as_integers(torch.zeros(2, 3).T).shape
    (6,)
    """
    if tensor.device.type != "cpu" or not tensor.numel() or tensor.element_size() not in _INTEGERS:
        return None
    flat = tensor.detach().as_strided((_extent(tensor),), (1,), tensor.storage_offset())
    return flat.view(_INTEGERS[tensor.element_size()]).numpy()


class MemorySamples:
    """Samples of tensors, which belong to the memory that these have now."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.places = _places(tensors)

    def fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the tensors are still in the same memory."""
        return self.places == _places(tensors)


class WeightSamples(MemorySamples):
    """A few numbers of every tensor in the memory of the CPU, read in microseconds."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__(tensors)
        self._reads: list[tuple[Callable[[int], object], int]] = []
        for tensor in tensors:
            array = memory_as_integers(tensor)
            if array is not None:
                positions = {number * (array.size - 1) // max(1, _SAMPLES - 1) for number in range(_SAMPLES)}
                self._reads += [(array.item, position) for position in positions]

    def read(self) -> list[object]:
        """The numbers, as the integers of their bits."""
        return [read(position) for read, position in self._reads]


def _places(tensors: Sequence[Tensor]) -> list[int]:
    return list(map(Tensor.data_ptr, tensors))


def _extent(tensor: Tensor) -> int:
    """The number of elements of memory that a tensor spans."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
