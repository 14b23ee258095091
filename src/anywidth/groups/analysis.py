"""Results of the analysis: channel groups, the positions of their channels in every tensor, and their costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Analysis", "Attribute", "Axis", "ChannelGroup", "Coincidence", "CountedOperator", "KeptIndices", "Scale"]

KeptIndices = npt.NDArray[np.int64] | int | None
"""Kept positions of one dimension: None for all, an int k for the first k, else the indices."""


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that must be narrowed together.

    Attributes:
        name: A readable module path: the first module that makes these channels.
        channels: Channels at full width.
        block_size: Number of channels that are kept or dropped together (in heads, in grouped convolutions), usually 1.
        ratio: Expansion ratio over the channels that the group is made from; rounding comes before it.
        producers: Module paths that make these channels.
        members: Every dimension of the group, as `tensor[dimension]`.
        frozen: The reason why the channels cannot be narrowed, or None if they can.
    """

    name: str
    channels: int
    block_size: int = 1
    ratio: int = 1
    producers: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    frozen: str | None = None

    @property
    def blocks(self) -> int:
        """The number of blocks that can be kept or dropped."""
        return self.channels // self.block_size

    def matches(self, pattern: str) -> bool:
        """Whether a glob pattern matches this group, or one of the modules that make its channels."""
        # Names such as "conv[0:8]" also match literally, although brackets are special in patterns.
        return any(name == pattern or fnmatchcase(name, pattern) for name in (self.name, *self.producers))


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension of one tensor: the group (-1: none) and the block of the group at every position."""

    group: npt.NDArray[np.int32]
    index: npt.NDArray[np.int32]

    def kept(self, blocks: npt.NDArray[np.int64]) -> KeptIndices:
        """The kept positions when group i keeps its first `blocks[i]` blocks."""
        mask = self.index < blocks[self.group]
        count = int(mask.sum())
        if count == mask.size:
            return None
        if mask[:count].all():
            return count
        return np.flatnonzero(mask)

    def same(self, other: Axis) -> bool:
        """Whether the same blocks sit at the same positions."""
        return bool((self.group == other.group).all() and (self.index == other.index).all())


@dataclass(frozen=True, eq=False)
class Scale:
    """The size of an operator's dimension: a fixed part, and a part per group by its kept blocks."""

    fixed: int
    parts: tuple[tuple[int, npt.NDArray[np.int64]], ...]

    @property
    def full(self) -> int:
        """The size at full width."""
        return self.fixed + sum(int(sizes[-1]) for _, sizes in self.parts)

    def size(self, blocks: npt.NDArray[np.int64]) -> int:
        """The size when group i keeps its first `blocks[i]` blocks."""
        # Pieces of different sizes freeze a group, which then has more channels than pieces.
        return self.fixed + sum(int(sizes[min(int(blocks[group]), sizes.size - 1)]) for group, sizes in self.parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class CountedOperator:
    """An operator with its MACs per sample at full width, and the dimensions that scale them.

    `inputs`, `sizes` and `weight` are those of `flow.Cost`.
    """

    module: str
    operator: str
    kind: str
    macs: int
    scales: tuple[Scale, ...]
    inputs: frozenset[int] = frozenset()
    sizes: frozenset[int] = frozenset()
    weight: str | None = None

    def count(self, blocks: npt.NDArray[np.int64]) -> int:
        """MACs per sample when group i keeps its first `blocks[i]` blocks."""
        macs = self.macs
        for scale in self.scales:
            macs = macs * scale.size(blocks) // scale.full
        return macs


@dataclass(frozen=True, eq=False)
class Attribute:
    """An integer attribute of a module (or the integers of a tuple) that may follow channels.

    `choices` lists for every integer the channels that it may count, the most likely first, each with a factor.
    `chosen` is the current choice for every integer; missing entries mean the first choice.
    """

    choices: tuple[tuple[tuple[Scale, int], ...], ...]
    chosen: tuple[int, ...] = ()

    @property
    def alternatives(self) -> int:
        """The number of choices."""
        return max(len(options) for options in self.choices)

    def choice(self, index: int) -> int:
        """The current choice for one integer."""
        return self.chosen[index] if index < len(self.chosen) else 0

    def choose(self, index: int, choice: int) -> Attribute:
        """A copy with a different choice for one integer."""
        chosen = [self.choice(i) for i in range(len(self.choices))]
        chosen[index] = choice
        return replace(self, chosen=tuple(chosen))

    def left_alone(self, index: int) -> int | None:
        """The choice that leaves one integer unchanged, if there is one."""
        return next((i for i, (scale, _) in enumerate(self.choices[index]) if not scale.parts), None)

    def full(self, index: int) -> int:
        """One integer at full width."""
        scale, factor = self.choices[index][0]
        return scale.full * factor

    def value(self, index: int, choice: int, blocks: npt.NDArray[np.int64]) -> int:
        """One integer under one choice when group i keeps its first `blocks[i]` blocks."""
        scale, factor = self.choices[index][choice]
        return scale.size(blocks) * factor

    def values(self, blocks: npt.NDArray[np.int64]) -> tuple[int, ...]:
        """The integers when group i keeps its first `blocks[i]` blocks."""
        return tuple(self.value(i, self.choice(i), blocks) for i in range(len(self.choices)))

    def told_apart(self, blocks: npt.NDArray[np.int64]) -> list[int]:
        """The choices, numbered over all integers, that lead to a different integer than the current one."""
        pairs = [(i, choice) for i, options in enumerate(self.choices) for choice in range(len(options))]
        now = self.values(blocks)
        return [number for number, (i, choice) in enumerate(pairs) if self.value(i, choice, blocks) != now[i]]


@dataclass(frozen=True, kw_only=True)
class Coincidence:
    """An integer attribute that equals a number of channels and that subnets leave alone.

    Attributes:
        module: The module's path, "" for the root.
        attribute: The attribute's name.
        value: The integer.
        groups: Names of the channel groups that it could count.
        factor: The integer divided by the number of channels.
    """

    module: str
    attribute: str
    value: int
    groups: tuple[str, ...]
    factor: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """Everything known about one model's channels.

    `axes` maps the first name of every tensor with elastic dimensions to one entry per dimension. `names` maps every
    name to the first name of the same tensor. `attributes` lists by module path the integers that follow channels;
    `coincidences` are integers that equal a number of channels but do not follow. `samples` is the number of samples in
    the example inputs. `written` lists by module path the attributes that forwards write, with the initial values for
    copies. `forward` contains the captured forward, one line per operator. `plain` contains the numbers, strings and
    flags of every module at that time.
    """

    groups: tuple[ChannelGroup, ...]
    axes: Mapping[str, tuple[Axis | None, ...]]
    names: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    operators: tuple[CountedOperator, ...]
    uncounted: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, Attribute]] = field(default_factory=dict)
    coincidences: tuple[Coincidence, ...] = ()
    samples: int = 1
    written: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    caches_weights: bool = False
    forward: tuple[str, ...] = ()
    plain: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def elastic(self) -> tuple[ChannelGroup, ...]:
        """The groups that can be narrowed."""
        return tuple(group for group in self.groups if group.frozen is None)

    def blocks(self, channels: Mapping[str, int]) -> npt.NDArray[np.int64]:
        """Kept blocks per group from active channels by name; a last entry is for positions of no group."""
        kept = [channels.get(group.name, group.channels) // group.block_size for group in self.groups]
        return np.array([*kept, np.iinfo(np.int32).max], dtype=np.int64)

    def kept(self, name: str, blocks: npt.NDArray[np.int64]) -> tuple[KeptIndices, ...]:
        """Kept positions of every dimension of a tensor (by its first name)."""
        axes = self.axes.get(name)
        if axes is None:
            return tuple(None for _ in self.shapes[name])
        return tuple(None if axis is None else axis.kept(blocks) for axis in axes)

    def narrows_like(self, other: Analysis) -> bool:
        """Whether subnets keep the same channels and integers as with another analysis."""
        chosen, others = (
            {
                (path, name): attribute.chosen
                for path, found in each.attributes.items()
                for name, attribute in found.items()
            }
            for each in (self, other)
        )
        if (self.groups, chosen, self.axes.keys()) != (other.groups, others, other.axes.keys()):
            return False
        pairs = (pair for name in self.axes for pair in zip(self.axes[name], other.axes[name], strict=True))
        return all(a is b if a is None or b is None else a.same(b) for a, b in pairs)

    def freeze(self, reasons: Mapping[str, str]) -> Analysis:
        """A copy with groups frozen, by name."""
        groups = [
            replace(group, frozen=reasons[group.name]) if group.frozen is None and group.name in reasons else group
            for group in self.groups
        ]
        return replace(self, groups=tuple(groups))

    def with_ratios(self, ratios: Mapping[str, int]) -> Analysis:
        """A copy with expansion ratios set, by name."""
        groups = [replace(g, ratio=ratios.get(g.name, g.ratio)) for g in self.groups]
        return replace(self, groups=tuple(groups))

    def matching(self, pattern: str) -> Sequence[ChannelGroup]:
        """The groups that a pattern matches."""
        return [group for group in self.groups if group.matches(pattern)]
