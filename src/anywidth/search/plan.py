"""Channel numbers that a search tries in every group."""

from __future__ import annotations

import math

from anywidth.core.errors import SearchError
from anywidth.groups import ChannelGroup
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig, make_divisible, round_channels

__all__ = ["narrower", "sizes", "space", "step_size"]


def step_size(group: ChannelGroup, step_fraction: float, divisor: int) -> int:
    """Channels to remove from a group per step: a share of the group, rounded to the divisor and to whole blocks.

    Source: AutoSlim (arXiv 1903.11728), which divides a layer into 10 to 12 parts.

    >>> step_size(ChannelGroup(name="conv", channels=256), 0.1, 8)
    24
    """
    step = math.lcm(divisor, group.block_size)
    if step > group.channels:
        step = group.block_size
    return make_divisible(group.channels * step_fraction, step)


def sizes(group: ChannelGroup, *, step_fraction: float, divisor: int, min_width: float) -> tuple[int, ...]:
    """Channel numbers that a search may choose for a group, largest first: all, then one step fewer each time.

    >>> sizes(ChannelGroup(name="conv", channels=64), step_fraction=0.1, divisor=8, min_width=0.5)
    (64, 56, 48, 40, 32)
    """
    least = min(round_channels(group, min_width, divisor), group.channels)
    remove = step_size(group, step_fraction, divisor)
    step = math.lcm(divisor, group.block_size)
    step = step if step <= group.channels else group.block_size
    found = [group.channels]
    while found[-1] > least:
        # What is left is a multiple of the divisor, also where the full group is not.
        found.append(max(least, (found[-1] - remove) // step * step))
    return tuple(found)


def space(net: Supernet, *, step_fraction: float) -> dict[str, tuple[int, ...]]:
    """The sizes of every elastic group of a network.

    Raises:
        SearchError: there is nothing to choose, because every group has one size, or widths are fixed.
    """
    if net.widths:
        kind = "with switches" if net.switches else "that is nested"
        raise SearchError(
            f"a network {kind} has no other widths to search; train one without: anywidth train --width-sampling "
            "nonuniform"
        )
    found = {
        group.name: sizes(group, step_fraction=step_fraction, divisor=net.divisor, min_width=net.min_width)
        for group in net.analysis.elastic
    }
    if all(len(options) == 1 for options in found.values()):
        raise SearchError(
            f"no group of the network can be narrowed at divisor {net.divisor} and min_width {net.min_width:g}; "
            "make a Supernet with a smaller divisor or min_width, or see net.summary()"
        )
    return found


def narrower(config: WidthConfig, options: dict[str, tuple[int, ...]]) -> dict[str, WidthConfig]:
    """For every group that has a smaller size, the config with that size.

    >>> options = {"a": (16, 8), "b": (8,)}
    >>> narrower(WidthConfig({"a": 16, "b": 8}), options)
    {'a': WidthConfig({'a': 8, 'b': 8})}
    """
    found: dict[str, WidthConfig] = {}
    for name, channels in options.items():
        smaller = [size for size in channels if size < config[name]]
        if smaller:
            found[name] = WidthConfig({**config, name: max(smaller)})
    return found
