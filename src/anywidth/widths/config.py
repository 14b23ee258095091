"""Width configs: how many channels of every group are active."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, SupportsIndex

from anywidth.core.errors import WidthError
from anywidth.widths.rounding import make_divisible

__all__ = ["Group", "Width", "WidthConfig", "check_width", "resolve", "round_channels"]


class Group(Protocol):
    """What rounding needs to know of a channel group."""

    @property
    def name(self) -> str:
        """The name that configs use."""
        ...

    @property
    def channels(self) -> int:
        """Channels at full width."""
        ...

    @property
    def unit(self) -> int:
        """Channels that are kept or dropped as one."""
        ...

    @property
    def ratio(self) -> int:
        """Expansion over the channels that are rounded."""
        ...

    def matches(self, pattern: str) -> bool:
        """Whether a glob pattern means this group."""
        ...


class WidthConfig(Mapping[str, int]):
    """A frozen, hashable mapping of group name to active channels.

    >>> config = WidthConfig({"conv1": 32, "layer2": 64})
    >>> config["conv1"], len(config)
    (32, 2)
    """

    __slots__ = ("_channels", "_hash")

    def __init__(self, channels: Mapping[str, int]) -> None:
        self._channels = {name: _whole(name, number) for name, number in channels.items()}
        self._hash = hash(frozenset(self._channels.items()))

    def __reduce__(self) -> tuple[type[WidthConfig], tuple[dict[str, int]]]:
        # Hashes of strings differ between processes, so that the hash must not travel.
        return type(self), (self._channels,)

    def __getitem__(self, name: str) -> int:
        return self._channels[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._channels)

    def __len__(self) -> int:
        return len(self._channels)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WidthConfig) and self._channels == other._channels

    def __repr__(self) -> str:
        return f"WidthConfig({self._channels})"

    @property
    def key(self) -> str:
        """A short name that is the same in every process, for files."""
        text = json.dumps(sorted(self._channels.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


Width = float | Mapping[str, float] | WidthConfig
"""What callers may give: a uniform width, a map of patterns to widths, or a finished config."""


def _whole(name: str, channels: object) -> int:
    if isinstance(channels, bool) or not isinstance(channels, SupportsIndex):
        raise WidthError(f"group {name!r} needs a whole number of channels, not {channels!r}")
    return operator.index(channels)


def check_width(width: object, low: float = 0.0, what: str = "width") -> float:
    """A width as a float, or a `WidthError` that names the range [`low`, 1].

    >>> check_width(0.5)
    0.5
    """
    if isinstance(width, bool) or not isinstance(width, (int, float)):
        raise WidthError(f"{what} must be a number in [{low:g}, 1], not {width!r}")
    value = float(width)
    if not (math.isfinite(value) and value > 0 and low - 1e-9 <= value <= 1 + 1e-9):
        span = f"[{low:g}, 1]" if low else "(0, 1]"
        raise WidthError(f"{what} {value:g} is outside {span}; choose one inside")
    return min(max(value, low), 1.0)


def round_channels(group: Group, width: float, divisor: int) -> int:
    """Active channels of a group at a width, by the rule of the papers.

    Channels before the expansion (`ratio`) are rounded to a multiple of `divisor`, one more if that falls below 0.9
    of the value, and multiplied back; whole units (heads, conv groups) are kept; never more than the group has.

    Source: US-Nets (arXiv 1903.05134) and MobileNetV2's channel rule.
    """
    base = group.channels / group.ratio
    step = divisor
    if group.unit > 1:
        whole = math.lcm(divisor, group.unit)
        step = whole if whole <= group.channels else group.unit
    rounded = make_divisible(base * width, step) * group.ratio
    rounded -= rounded % group.unit
    return min(max(rounded, group.unit), group.channels)


def resolve(
    groups: Sequence[Group], width: Width, *, divisor: int, min_width: float, frozen: Sequence[Group] = ()
) -> WidthConfig:
    """The config that a width stands for, one entry per elastic group in their order.

    A map gives widths by glob pattern over group names and the modules that make their channels; the first
    pattern that matches a group counts, and groups that none matches stay whole.

    Raises:
        WidthError: a width out of range, a pattern that matches nothing, or a config of another network.
    """
    if isinstance(width, WidthConfig):
        return _checked(groups, width)
    if isinstance(width, Mapping):
        widths = {pattern: check_width(w, min_width, f"width of {pattern!r}") for pattern, w in width.items()}
        for pattern in widths:
            if not any(group.matches(pattern) for group in (*groups, *frozen)):
                known = ", ".join(group.name for group in groups[:8])
                raise WidthError(f"pattern {pattern!r} matches no channel group; some are: {known}")
            if not any(group.matches(pattern) for group in groups):
                raise WidthError(f"pattern {pattern!r} matches only frozen channels; see Supernet.summary()")
        of = [next((w for p, w in widths.items() if g.matches(p)), 1.0) for g in groups]
    else:
        of = [check_width(width, min_width)] * len(groups)
    return WidthConfig(
        {
            group.name: group.channels if w >= 1.0 else round_channels(group, w, divisor)
            for group, w in zip(groups, of, strict=True)
        }
    )


def _checked(groups: Sequence[Group], config: WidthConfig) -> WidthConfig:
    known = {group.name: group for group in groups}
    strange = [name for name in config if name not in known]
    missing = [name for name in known if name not in config]
    if strange or missing:
        raise WidthError(
            f"the width config is of another network: {len(strange)} unknown groups {strange[:3]}, "
            f"{len(missing)} missing {missing[:3]}"
        )
    for name, channels in config.items():
        group = known[name]
        if not group.unit <= channels <= group.channels or channels % group.unit:
            raise WidthError(
                f"group {name!r} cannot have {channels} channels: it needs a multiple of {group.unit} "
                f"in [{group.unit}, {group.channels}]"
            )
    return config
