"""The entries of weights at which a channel would read a channel of a later shell."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anywidth.groups.analysis import Analysis, Axis
from anywidth.groups.counts import Cost

__all__ = [
    "Bounds",
    "LaterEntries",
    "channel_makers",
    "find_later_entries",
    "is_elastic",
    "position_shells",
    "reads_of",
]

Bounds = npt.NDArray[np.int64]
"""Units of every group that the first shells hold together, shape (shells, groups + 1); the last column is huge."""

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LaterEntries:
    """The entries of one weight that are zero in a nested network.

    Attributes:
        out_dim: The dimension along which the weight makes channels.
        in_dim: The dimension along which it reads channels.
        rows: The shell of every position along `out_dim`.
        columns: The shell of every position along `in_dim`.
    """

    out_dim: int
    in_dim: int
    rows: Positions
    columns: Positions

    @cached_property
    def blocks(self) -> tuple[tuple[Positions, Positions], ...]:
        """The entries as blocks of rows and columns, at most one per shell."""
        pairs = [
            (np.flatnonzero(self.rows == shell), np.flatnonzero(self.columns > shell))
            for shell in range(int(self.columns.max(initial=0)))
        ]
        return tuple((rows, columns) for rows, columns in pairs if rows.size and columns.size)

    def readable(self, shell: int | None = None) -> npt.NDArray[np.float64]:
        """For every row of the first shells (of all by default), the share of their columns that it may read."""
        last = math.inf if shell is None else shell
        rows, columns = self.rows[self.rows <= last], self.columns[self.columns <= last]
        return (columns[None] <= rows[:, None]).mean(1) if columns.size else np.ones(rows.size)

    def of(self, tensor: Tensor) -> list[Tensor]:
        """Views of the entries of a tensor, if they are consecutive along both dimensions; else copies."""
        return [self._part(tensor, rows, columns) for rows, columns in self.blocks]

    def views(self, tensor: Tensor) -> list[Tensor] | None:
        """Views of the entries of a tensor; None if they are not consecutive."""
        return None if self._slices is None else [tensor[slices] for slices in self._slices]

    @cached_property
    def _slices(self) -> tuple[tuple[slice, ...], ...] | None:
        if not all(_is_range(positions) for block in self.blocks for positions in block):
            return None
        found = []
        for rows, columns in self.blocks:
            slices = [slice(None)] * (max(self.out_dim, self.in_dim) + 1)
            slices[self.out_dim] = slice(int(rows[0]), int(rows[-1]) + 1)
            slices[self.in_dim] = slice(int(columns[0]), int(columns[-1]) + 1)
            found.append(tuple(slices))
        return tuple(found)

    def zero_(self, tensor: Tensor) -> None:
        """Set the entries of a tensor to zero."""
        views = self.views(tensor)
        for view in views or ():
            view.zero_()
        for rows, columns in self.blocks if views is None else ():
            if _is_range(rows):
                part = tensor.narrow(self.out_dim, int(rows[0]), rows.size)
                part.index_fill_(self.in_dim, _index(columns, tensor), 0)
            else:
                moved = tensor.movedim((self.out_dim, self.in_dim), (0, 1))
                moved[_index(rows, tensor)[:, None], _index(columns, tensor)[None]] = 0

    def _part(self, tensor: Tensor, rows: Positions, columns: Positions) -> Tensor:
        for dim, positions in ((self.out_dim, rows), (self.in_dim, columns)):
            if _is_range(positions):
                tensor = tensor.narrow(dim, int(positions[0]), positions.size)
            else:
                tensor = tensor.index_select(dim, _index(positions, tensor))
        return tensor


def find_later_entries(analysis: Analysis, costs: Sequence[Cost], bounds: Bounds) -> dict[str, LaterEntries]:
    """The entries of every weight that makes channels from channels, by its first name; some have none.

    Args:
        analysis: The groups.
        costs: The products of the network.
        bounds: The shells.
    """
    made: dict[str, set[int]] = defaultdict(set)
    for cost in costs:
        if cost.weight is not None:
            made[cost.weight] |= set(cost.out_dims)
    found: dict[str, LaterEntries] = {}
    for name, out_dims in made.items():
        axes = analysis.axes.get(name, ())
        elastic = [d for d, axis in enumerate(axes) if axis is not None and is_elastic(analysis, axis).any()]
        out, inner = [d for d in elastic if d in out_dims], [d for d in elastic if d not in out_dims]
        if len(out) == 1 and len(inner) == 1:
            row, column = _axis(axes, out[0]), _axis(axes, inner[0])
            # What is frozen may read everything: the proof tells whether it is the end of the network.
            rows = np.where(is_elastic(analysis, row), position_shells(row, bounds), len(bounds) - 1)
            found[name] = LaterEntries(out[0], inner[0], rows, position_shells(column, bounds))
    return found


def channel_makers(analysis: Analysis, costs: Sequence[Cost]) -> set[str]:
    """The weights that make elastic channels, by their first names."""
    found = set()
    for cost in costs:
        axes = analysis.axes.get(cost.weight, ()) if cost.weight is not None else ()
        made = (axes[dim] for dim in cost.out_dims if dim < len(axes))
        if any(axis is not None and is_elastic(analysis, axis).any() for axis in made):
            found.add(str(cost.weight))
    return found


def reads_of(analysis: Analysis, entries: Mapping[str, LaterEntries]) -> frozenset[tuple[int, int]]:
    """Pairs of groups by number: channels of the first are made from channels of the second."""
    pairs: set[tuple[int, int]] = set()
    for name, each in entries.items():
        row, column = _axis(analysis.axes[name], each.out_dim), _axis(analysis.axes[name], each.in_dim)
        pairs |= {(int(a), int(b)) for a in np.unique(row.group) for b in np.unique(column.group)}
    elastic = {number for number, group in enumerate(analysis.groups) if group.frozen is None}
    return frozenset(pair for pair in pairs if elastic.issuperset(pair))


def _axis(axes: Sequence[Axis | None], dim: int) -> Axis:
    axis = axes[dim]
    assert axis is not None
    return axis


def position_shells(axis: Axis, bounds: Bounds) -> Positions:
    """The shell of every position of a dimension; the first for positions that belong to no group."""
    return (axis.index[None] >= bounds[:, axis.group]).sum(0)


def is_elastic(analysis: Analysis, axis: Axis) -> npt.NDArray[np.bool_]:
    """Whether each position of a dimension belongs to channels that can be narrowed."""
    elastic = np.array([*(group.frozen is None for group in analysis.groups), False])
    return elastic[axis.group]


def _is_range(positions: Positions) -> bool:
    return int(positions[-1]) - int(positions[0]) + 1 == positions.size


def _index(positions: Positions, tensor: Tensor) -> Tensor:
    return torch.from_numpy(positions).to(tensor.device)
