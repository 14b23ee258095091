"""The labels, and the parts of compared tensors, that a narrowed network keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.fx import Node

from anywidth.groups.analysis import Analysis, Axis
from anywidth.groups.observed import Key, Part, Site, part_of
from anywidth.groups.propagate import Propagation

__all__ = ["Parts", "Selection", "Selector"]

Parts = Mapping[Node, tuple[Part | None, ...]]


@dataclass(frozen=True)
class Selection:
    """A narrowed network, to be compared with the masked one.

    Attributes:
        analysis: The groups.
        blocks: Units that every group keeps.
        kept: Whether each label is kept.
        parts: The compared parts of the tensors at every site.
    """

    analysis: Analysis
    blocks: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]
    parts: Parts


class Selector:
    """Makes selections.

    Args:
        found: Labels of all tensors.
        sites: The operators that read weights.
    """

    def __init__(self, found: Propagation, sites: Mapping[Key, list[Site]]) -> None:
        self._found = found
        self._sites = [site for each in sites.values() for site in each]
        self._solved: tuple[Any, ...] | None = None

    def select(self, analysis: Analysis, blocks: npt.NDArray[np.int64]) -> Selection:
        """The selection of the network whose group i keeps its first `blocks[i]` blocks."""
        roots, labels, groups, indices = self._positions(analysis)
        kept = np.ones(len(roots), bool)
        kept[labels[indices >= blocks[groups]]] = False
        return Selection(analysis, blocks, kept[roots], self.parts(kept[roots]))

    def places(self, analysis: Analysis) -> Axis:
        """The group and the block of every label; those of no group have group -1."""
        roots, labels, groups, indices = self._positions(analysis)
        group, index = np.full(len(roots), -1, np.int32), np.zeros(len(roots), np.int32)
        group[labels], index[labels] = groups, indices
        return Axis(group[roots], index[roots])

    def _positions(self, analysis: Analysis) -> tuple[npt.NDArray[Any], ...]:
        """Representatives of all labels, and the label, group and rank of every position of every dimension."""
        if self._solved is None or self._solved[0] is not analysis.axes:  # ties change labels and axes together
            self._solved = (analysis.axes, *self._find_positions(analysis))
        return self._solved[1:]

    def _find_positions(self, analysis: Analysis) -> tuple[npt.NDArray[Any], ...]:
        labels = self._found.labels
        pairs = [
            (labels.find(vector), axis)
            for name, vectors in self._found.dims.items()
            for vector, axis in zip(vectors, analysis.axes.get(name, ()), strict=False)
            if vector is not None and axis is not None
        ]
        none = np.zeros(0, np.int64)
        return (
            labels.find(np.arange(len(labels))),
            np.concatenate([none, *(vector for vector, _ in pairs)]),
            np.concatenate([none, *(axis.group for _, axis in pairs)]),
            np.concatenate([none, *(axis.index for _, axis in pairs)]),
        )

    def parts(self, kept: npt.NDArray[np.bool_]) -> Parts:
        """The compared parts of the tensors at every site."""
        found: dict[Node, tuple[Part | None, ...]] = {}
        for site in self._sites:
            values = [operand.meta.get("val") for operand in site.operands]
            found[site.node] = tuple(
                part_of(value.shape, self._found.label_arrays.get(operand.name, []), kept)
                if isinstance(value, Tensor) and not made
                else None
                for operand, made, value in zip(site.operands, site.made, values, strict=True)
            )
        return found
