"""Labels of channels that must be kept or dropped together, in a vectorized union-find."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["FIXED", "Array", "Labels", "first_along", "varying"]

Array = npt.NDArray[np.int64]

FIXED = 0
"""The label of positions that every width keeps; a label that meets it is frozen, not merged."""


def varying(label_array: Array) -> set[int]:
    """The dimensions along which a label array is not of size one."""
    return {dim for dim, size in enumerate(label_array.shape) if size > 1}


def first_along(label_arrays: Iterable[Array], dim: int) -> Array | None:
    """The first label array that depends on one dimension, if any does."""
    return next((label_array for label_array in label_arrays if label_array.shape[dim] > 1), None)


class Labels:
    """Union-find over integer labels, with a frozen reason per class.

    A *label array* is an integer array that broadcasts to a value's shape: the size is 1 along the dimensions
    that the labels do not depend on. All operations use whole arrays, so their cost grows with the number of channels,
    not of elements.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1024, dtype=np.int64)
        self._reason = np.zeros(1024, dtype=np.int32)
        self._count = 1
        self._reasons: list[str] = [""]
        self._reason_ids: dict[str, int] = {"": 0}

    def __len__(self) -> int:
        return self._count

    def fresh(self, size: int) -> Array:
        """An array of `size` new labels."""
        start, self._count = self._count, self._count + size
        if self._count > len(self._parent):
            capacity = max(2 * len(self._parent), self._count)
            self._parent = np.concatenate([self._parent, np.zeros(capacity - len(self._parent), np.int64)])
            self._reason = np.concatenate([self._reason, np.zeros(capacity - len(self._reason), np.int32)])
        labels = np.arange(start, self._count, dtype=np.int64)
        self._parent[start : self._count] = labels
        return labels

    def snapshot(self) -> tuple[Array, npt.NDArray[np.int32]]:
        """The state of all unions and frozen reasons, for `restore`."""
        return self._parent.copy(), self._reason.copy()

    def restore(self, state: tuple[Array, npt.NDArray[np.int32]]) -> None:
        """Undo every union and freeze since a snapshot."""
        self._parent, self._reason = state[0].copy(), state[1].copy()

    def find(self, labels: Array) -> Array:
        """The representative of every label, in the shape of `labels`."""
        roots = self._parent[labels]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[labels] = roots
        return roots

    def union(self, a: Array, b: Array, reason: str) -> None:
        """Merge the labels of two arrays that broadcast together; a label that meets FIXED is frozen for `reason`."""
        left, right = np.broadcast_arrays(a, b)
        left, right = left.ravel(), right.ravel()
        fixed = (left == FIXED) | (right == FIXED)
        if fixed.any():
            self.freeze(np.concatenate([left[fixed], right[fixed]]), reason)
            left, right = left[~fixed], right[~fixed]
        while left.size:
            left, right = self.find(left), self.find(right)
            low, high = np.minimum(left, right), np.maximum(left, right)
            differ = low != high
            left, right = low[differ], high[differ]
            np.minimum.at(self._parent, right, left)

    def freeze(self, labels: Array, reason: str) -> None:
        """Freeze labels; the first reason for a class is the one reported."""
        flat = labels[labels != FIXED]
        number = self._reason_ids.setdefault(reason, len(self._reasons))
        if number == len(self._reasons):
            self._reasons.append(reason)
        self._reason[flat[self._reason[flat] == 0]] = number

    def is_frozen(self, label_array: Array) -> bool:
        """Whether some labels of an array are already frozen."""
        return bool(
            (label_array == FIXED).any()
            or self._reason[label_array].any()
            or self._reason[self.find(label_array)].any()
        )

    def tie(self, label_array: Array, dims: set[int], reason: str) -> Array:
        """Merge labels along dimensions; the returned label array no longer depends on them."""
        for dim in sorted(dims & varying(label_array)):
            first = np.take(label_array, [0], axis=dim)
            self.union(label_array, first, reason)
            label_array = first
        return label_array

    def compress(self, label_array: Array) -> Array:
        """Representatives, with every dimension along which they are constant reduced to size one."""
        label_array = self.find(label_array)
        for dim in varying(label_array):
            first = np.take(label_array, [0], axis=dim)
            if (label_array == first).all():
                label_array = first
        return label_array

    def reasons(self) -> dict[int, str]:
        """Representative of every frozen class -> why it is frozen."""
        frozen = np.flatnonzero(self._reason[: self._count])
        roots = self.find(frozen)
        first: dict[int, int] = {}
        for root, number in zip(roots.tolist(), self._reason[frozen].tolist(), strict=True):
            first[root] = min(first.get(root, number), number)
        return {root: self._reasons[number] for root, number in first.items()}
