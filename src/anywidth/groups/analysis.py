"""What the analysis finds: channel groups, where their channels sit in every tensor, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Analysis", "Attribute", "Axis", "ChannelGroup", "Coincidence", "CountedOperator", "Kept", "Scale"]

Kept = npt.NDArray[np.int64] | int | None
"""Kept positions of one dimension: None for all, an int k for the first k, else the indices."""


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that have to be narrowed together.

    Attributes:
        name: A module path that a person recognises, the first that makes these channels.
        channels: Channels at full width.
        unit: Channels that are kept or dropped as one (heads, groups of a grouped convolution), usually 1.
        ratio: Expansion over the channels that the group is made from; rounding is done before it.
        producers: Module paths that make these channels.
        members: Every dimension that follows, as `tensor[dimension]`.
        frozen: Why the channels cannot be narrowed, or None if they can.
    """

    name: str
    channels: int
    unit: int = 1
    ratio: int = 1
    producers: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    frozen: str | None = None

    @property
    def units(self) -> int:
        """How many pieces can be kept or dropped."""
        return self.channels // self.unit

    def matches(self, pattern: str) -> bool:
        """Whether a glob pattern names this group, or one of the modules that make its channels."""
        # Names such as "conv[0:8]" mean themselves, although brackets are special in patterns.
        return any(name == pattern or fnmatchcase(name, pattern) for name in (self.name, *self.producers))


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension of one tensor: which group (-1: none) and which unit of it sits at every position."""

    group: npt.NDArray[np.int32]
    rank: npt.NDArray[np.int32]

    def kept(self, units: npt.NDArray[np.int64]) -> Kept:
        """Positions kept when group i keeps its first `units[i]` units."""
        mask = self.rank < units[self.group]
        count = int(mask.sum())
        if count == mask.size:
            return None
        if mask[:count].all():
            return count
        return np.flatnonzero(mask)


@dataclass(frozen=True, eq=False)
class Scale:
    """How a dimension of an operator shrinks: a fixed part, and per group the size by kept units."""

    fixed: int
    parts: tuple[tuple[int, npt.NDArray[np.int64]], ...]

    @property
    def full(self) -> int:
        """The size at full width."""
        return self.fixed + sum(int(sizes[-1]) for _, sizes in self.parts)

    def size(self, units: npt.NDArray[np.int64]) -> int:
        """The size when group i keeps its first `units[i]` units."""
        return self.fixed + sum(int(sizes[units[group]]) for group, sizes in self.parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class CountedOperator:
    """An operator with its MACs per sample at full width, and the dimensions that scale them.

    `inputs` and `sizes` are those of `flow.Cost`.
    """

    module: str
    operator: str
    kind: str
    macs: int
    scales: tuple[Scale, ...]
    inputs: frozenset[int] = frozenset()
    sizes: frozenset[int] = frozenset()

    def count(self, units: npt.NDArray[np.int64]) -> int:
        """MACs per sample when group i keeps its first `units[i]` units."""
        macs = self.macs
        for scale in self.scales:
            macs = macs * scale.size(units) // scale.full
        return macs


@dataclass(frozen=True, eq=False)
class Attribute:
    """An integer attribute of a module (or the integers of a tuple) that may follow channels.

    `choices` holds for every integer what it may count, the most likely first, each with a factor; `chosen` is the
    choice in force for every integer, the first where it ends early.
    """

    choices: tuple[tuple[tuple[Scale, int], ...], ...]
    chosen: tuple[int, ...] = ()

    @property
    def alternatives(self) -> int:
        """How many choices there are."""
        return max(len(options) for options in self.choices)

    def choice(self, index: int) -> int:
        """The choice in force for one integer."""
        return self.chosen[index] if index < len(self.chosen) else 0

    def choose(self, index: int, choice: int) -> Attribute:
        """The same attribute with another choice for one integer."""
        chosen = [self.choice(i) for i in range(len(self.choices))]
        chosen[index] = choice
        return replace(self, chosen=tuple(chosen))

    def left_alone(self, index: int) -> int | None:
        """The choice that leaves one integer alone, if there is one."""
        return next((i for i, (scale, _) in enumerate(self.choices[index]) if not scale.parts), None)

    def full(self, index: int) -> int:
        """One integer at full width."""
        scale, factor = self.choices[index][0]
        return scale.full * factor

    def value(self, index: int, choice: int, units: npt.NDArray[np.int64]) -> int:
        """One integer by one choice when group i keeps its first `units[i]` units."""
        scale, factor = self.choices[index][choice]
        return scale.size(units) * factor

    def values(self, units: npt.NDArray[np.int64]) -> tuple[int, ...]:
        """The integers when group i keeps its first `units[i]` units."""
        return tuple(self.value(i, self.choice(i), units) for i in range(len(self.choices)))

    def told_apart(self, units: npt.NDArray[np.int64]) -> list[int]:
        """The choices, numbered through all integers, that give another integer than the one in force."""
        pairs = [(i, choice) for i, options in enumerate(self.choices) for choice in range(len(options))]
        now = self.values(units)
        return [number for number, (i, choice) in enumerate(pairs) if self.value(i, choice, units) != now[i]]


@dataclass(frozen=True, kw_only=True)
class Coincidence:
    """An integer attribute that equals a number of channels and that subnets leave alone.

    Attributes:
        module: The module's path, "" for the root.
        attribute: The attribute's name.
        value: The integer.
        groups: Names of the channel groups that it might have counted.
        factor: How many times the number of channels it is.
    """

    module: str
    attribute: str
    value: int
    groups: tuple[str, ...]
    factor: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """Everything known about one model's channels.

    `axes` maps the first name of every tensor with elastic dimensions to one entry per dimension; `names` maps
    every name to the first name of the same tensor; `attributes` says by module path which integers follow;
    `coincidences` are those that equal a number of channels and do not. `samples` is how many samples the example
    inputs hold. `written` says by module path which attributes forwards write, and what copies begin with instead;
    `forward` is what the captured forward does, one line per operator; `plain` has the numbers, strings and flags of
    every module then.
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
    forward: tuple[str, ...] = ()
    plain: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def elastic(self) -> tuple[ChannelGroup, ...]:
        """The groups that can be narrowed."""
        return tuple(group for group in self.groups if group.frozen is None)

    def units(self, channels: Mapping[str, int]) -> npt.NDArray[np.int64]:
        """Kept units per group from active channels by name; a last entry serves positions of no group."""
        kept = [channels.get(group.name, group.channels) // group.unit for group in self.groups]
        return np.array([*kept, np.iinfo(np.int32).max], dtype=np.int64)

    def kept(self, name: str, units: npt.NDArray[np.int64]) -> tuple[Kept, ...]:
        """Kept positions of every dimension of a tensor (by its first name)."""
        axes = self.axes.get(name)
        if axes is None:
            return tuple(None for _ in self.shapes[name])
        return tuple(None if axis is None else axis.kept(units) for axis in axes)

    def narrows_like(self, other: Analysis) -> bool:
        """Whether subnets of this analysis keep the same channels and integers as those of another."""
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
        return all(
            a is b if a is None or b is None else bool((a.group == b.group).all() and (a.rank == b.rank).all())
            for a, b in pairs
        )

    def freeze(self, reasons: Mapping[str, str]) -> Analysis:
        """The same analysis with groups frozen, by name."""
        groups = [
            replace(group, frozen=reasons[group.name]) if group.frozen is None and group.name in reasons else group
            for group in self.groups
        ]
        return replace(self, groups=tuple(groups))

    def with_ratios(self, ratios: Mapping[str, int]) -> Analysis:
        """The same analysis with expansion ratios set, by name."""
        groups = [replace(g, ratio=ratios.get(g.name, g.ratio)) for g in self.groups]
        return replace(self, groups=tuple(groups))

    def matching(self, pattern: str) -> Sequence[ChannelGroup]:
        """The groups that a pattern names."""
        return [group for group in self.groups if group.matches(pattern)]
