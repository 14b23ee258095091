"""Rounding of channel numbers at a width, as in the papers."""

from __future__ import annotations

import math
from typing import Protocol

__all__ = ["Group", "make_divisible", "round_channels"]


class Group(Protocol):
    """The properties of a channel group that rounding needs."""

    @property
    def name(self) -> str:
        """Name of the group in configs."""
        ...

    @property
    def channels(self) -> int:
        """Number of channels at full width."""
        ...

    @property
    def block_size(self) -> int:
        """Number of channels that are kept or dropped together."""
        ...

    @property
    def ratio(self) -> int:
        """Expansion factor over the channels that are rounded."""
        ...

    def matches(self, pattern: str) -> bool:
        """Whether a glob pattern matches this group."""
        ...


def make_divisible(value: float, divisor: int = 8) -> int:
    """Multiple of `divisor` nearest to `value`, raised by one multiple if below 0.9 of the value.

    >>> make_divisible(33), make_divisible(11), make_divisible(3)
    (32, 16, 8)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def round_channels(group: Group, width: float, divisor: int) -> int:
    """Active channels of a group at a width, by the rounding rule of the papers.

    Channels before the expansion (`ratio`) are rounded to a multiple of `divisor`. If the result is below 0.9 of the
    exact value, it is raised by one multiple. It is then multiplied by the expansion, rounded to whole blocks (heads,
    convolution groups) and limited to the channels of the group.

    Source: US-Nets (arXiv 1903.05134) and MobileNetV2's channel rule.
    """
    base = group.channels / group.ratio
    step = divisor
    if group.block_size > 1:
        whole = math.lcm(divisor, group.block_size)
        step = whole if whole <= group.channels else group.block_size
    rounded = make_divisible(base * width, step) * group.ratio
    rounded -= rounded % group.block_size
    return min(max(rounded, group.block_size), group.channels)
