"""What is known of a nested network after its proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anywidth.groups.analysis import Axis, KeptIndices
from anywidth.groups.later_shells import (
    LaterEntries,
)

__all__ = ["Leaf", "Nesting"]


@dataclass(frozen=True, eq=False)
class Leaf:
    """One tensor that a module returns.

    Attributes:
        kept: Per shell, the positions of every dimension that the width up to this shell has.
        axes: The group and block at every position of every dimension; None if some position belongs to several.
        overwritten: Whether code after the module writes to the tensor in place.
        needed: Whether anything outside of the body computes from the tensor.
    """

    kept: tuple[tuple[KeptIndices, ...], ...]
    axes: tuple[Axis | None, ...] | None
    overwritten: bool
    needed: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Nesting:
    """What is known of a nested network.

    Attributes:
        later: The entries that are zero of every weight that makes channels from channels, by its first name.
        reads: Pairs of groups by number: channels of the first are made from channels of the second.
        body: The outermost modules that compute the same at every width, with the tensors of each of their calls.
        tail: Parameters and buffers that the rest of the network reads.
    """

    later: Mapping[str, LaterEntries]
    reads: frozenset[tuple[int, int]]
    body: Mapping[str, tuple[tuple[Leaf, ...], ...]]
    tail: frozenset[str]
