"""Width configs: the number of active channels of each group."""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import SupportsIndex

from anywidth.core.errors import WidthError
from anywidth.widths.rounding import Group, round_channels

__all__ = ["Width", "WidthConfig", "check_width", "resolve"]


class WidthConfig(Mapping[str, int]):
    """Immutable, hashable mapping from group name to number of active channels.

    Configs are equal if their channels are.

    Args:
        channels: Active channels of every group.
        label: The width that was asked for, as a number or in words. It is shown in tables and messages.

    >>> config = WidthConfig({"conv1": 32, "layer2": 64}, label=0.5)
    >>> config["conv1"], len(config), str(config)
    (32, 2, '0.5')
    >>> config == WidthConfig({"conv1": 32, "layer2": 64})
    True
    """

    __slots__ = ("_channels", "_hash", "label")

    def __init__(self, channels: Mapping[str, int], label: float | str | None = None) -> None:
        self._channels = {name: _whole(name, number) for name, number in channels.items()}
        self._hash = hash(frozenset(self._channels.items()))
        self.label = label

    def __reduce__(self) -> tuple[type[WidthConfig], tuple[dict[str, int], float | str | None]]:
        # String hashes differ between processes, so the cached hash must not be pickled.
        return type(self), (self._channels, self.label)

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

    def __str__(self) -> str:
        if self.label is None:
            return f"config {self.key[:8]}"
        return self.label if isinstance(self.label, str) else f"{self.label:g}"

    @property
    def key(self) -> str:
        """Short digest that is the same in every process, for file names."""
        text = json.dumps(sorted(self._channels.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


Width = float | Mapping[str, float] | WidthConfig
"""A width as callers may give it: a uniform width, a map from patterns to widths, or a config."""


def _whole(name: str, channels: object) -> int:
    if isinstance(channels, bool) or not isinstance(channels, SupportsIndex):
        raise WidthError(f"group {name!r} needs a whole number of channels, not {channels!r}")
    return operator.index(channels)


def check_width(width: object, low: float = 0.0, what: str = "width") -> float:
    """Width as a float; a width outside [`low`, 1] raises a `WidthError`.

    >>> check_width(0.5)
    0.5
    """
    if isinstance(width, bool) or not isinstance(width, (int, float)):
        raise WidthError(f"{what} must be a number in [{low:g}, 1], not {width!r}")
    value = float(width)
    if not (math.isfinite(value) and value > 0 and low - 1e-9 <= value <= 1 + 1e-9):
        span = f"[{low:g}, 1]" if low else "(0, 1]"
        raise WidthError(f"{what} {value:g} is outside {span}; choose one within")
    return min(max(value, low), 1.0)


def resolve(
    groups: Sequence[Group], width: Width, *, divisor: int, min_width: float, frozen: Sequence[Group] = ()
) -> WidthConfig:
    """Width config for a width, with one entry per elastic group, in order.

    A map assigns widths by glob pattern over group names and the modules that produce their channels. The first
    matching pattern applies; groups without a match keep all channels.

    Raises:
        WidthError: a width is out of range, a pattern matches nothing, or a config belongs to another network.
    """
    if isinstance(width, WidthConfig):
        return _checked(groups, width)
    if isinstance(width, Mapping):
        widths = {pattern: check_width(w, min_width, f"width of {pattern!r}") for pattern, w in width.items()}
        for pattern in widths:
            if not any(group.matches(pattern) for group in (*groups, *frozen)):
                known = ", ".join(group.name for group in groups[:8])
                raise WidthError(f"pattern {pattern!r} matches no channel group; groups include {known}")
            if not any(group.matches(pattern) for group in groups):
                raise WidthError(f"pattern {pattern!r} matches only frozen channels; see Supernet.summary()")
        of = [next((w for p, w in widths.items() if g.matches(p)), 1.0) for g in groups]
        label: float | str = "+".join(f"{pattern}={w:g}" for pattern, w in widths.items())
    else:
        label = check_width(width, min_width)
        of = [label] * len(groups)
    return WidthConfig(
        {
            group.name: group.channels if w >= 1.0 else round_channels(group, w, divisor)
            for group, w in zip(groups, of, strict=True)
        },
        label,
    )


def _checked(groups: Sequence[Group], config: WidthConfig) -> WidthConfig:
    known = {group.name: group for group in groups}
    strange = [name for name in config if name not in known]
    missing = [name for name in known if name not in config]
    if strange or missing:
        raise WidthError(
            f"the width config belongs to another network: {len(strange)} unknown groups {strange[:3]}, "
            f"{len(missing)} missing {missing[:3]}"
        )
    for name, channels in config.items():
        group = known[name]
        if not group.block_size <= channels <= group.channels or channels % group.block_size:
            raise WidthError(
                f"group {name!r} cannot have {channels} channels; choose a multiple of {group.block_size} "
                f"in [{group.block_size}, {group.channels}]"
            )
    return config
