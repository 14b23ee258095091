"""A few of the entries that are zero in a nested network, to notice writes that version counters do not show."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from anywidth.groups.later_shells import LaterEntries
from anywidth.supernet.weight_changes import MemorySamples, memory_as_integers

__all__ = ["ZeroSamples"]


class ZeroSamples(MemorySamples):
    """The first and the last entry of every block of zeros in the memory of the CPU, read in microseconds.

    Args:
        tensors: The weights.
        entries: Their entries that are zero.
    """

    def __init__(self, tensors: Sequence[Tensor], entries: Sequence[LaterEntries]) -> None:
        super().__init__(tensors)
        self._reads: list[tuple[Callable[[int], int], int, int]] = []
        for tensor, later in zip(tensors, entries, strict=True):
            array = memory_as_integers(tensor)
            if array is None:
                continue
            bits = 2 ** (8 * tensor.element_size() - 1) - 1  # without the sign of -0.0
            strides = tensor.stride(later.out_dim), tensor.stride(later.in_dim)
            inner = [dim for dim in range(tensor.ndim) if dim not in (later.out_dim, later.in_dim)]
            end = sum((tensor.shape[dim] - 1) * tensor.stride(dim) for dim in inner)
            for rows, columns in later.blocks:
                first, last = (int(rows[i] * strides[0] + columns[i] * strides[1]) for i in (0, -1))
                self._reads += [(array.item, first, bits), (array.item, last + end, bits)]

    def are_zero(self) -> bool:
        """Whether all of these entries are zero."""
        return not any(read(place) & bits for read, place, bits in self._reads)
