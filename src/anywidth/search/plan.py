"""Which numbers of channels a search tries in every group."""

from __future__ import annotations

import math

from anywidth.core.errors import SearchError
from anywidth.groups import ChannelGroup
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig, make_divisible, round_channels

__all__ = ["narrower", "piece_of", "sizes", "space"]


def piece_of(group: ChannelGroup, piece: float, divisor: int) -> int:
    """Channels that are removed from a group at once: a share of it, rounded to the divisor and to whole units.

    Source: AutoSlim (arXiv 1903.11728), where a layer has 10 to 12 pieces.

    >>> piece_of(ChannelGroup(name="conv", channels=256), 0.1, 8)
    24
    """
    step = math.lcm(divisor, group.unit)
    if step > group.channels:
        step = group.unit
    return make_divisible(group.channels * piece, step)


def sizes(group: ChannelGroup, *, piece: float, divisor: int, min_width: float) -> tuple[int, ...]:
    """Channels that a group may have, most first: all of them, less one piece, less two, down to those of `min_width`.

    >>> sizes(ChannelGroup(name="conv", channels=64), piece=0.1, divisor=8, min_width=0.5)
    (64, 56, 48, 40, 32)
    """
    least = min(round_channels(group, min_width, divisor), group.channels)
    remove = piece_of(group, piece, divisor)
    step = math.lcm(divisor, group.unit)
    step = step if step <= group.channels else group.unit
    found = [group.channels]
    while found[-1] > least:
        # What is left is a multiple of the divisor, also where the full group is not.
        found.append(max(least, (found[-1] - remove) // step * step))
    return tuple(found)


def space(net: Supernet, *, piece: float) -> dict[str, tuple[int, ...]]:
    """The sizes of every elastic group of a network.

    Raises:
        SearchError: there is nothing to choose, because every group has one size, or widths are fixed switches.
    """
    if net.switches:
        raise SearchError(
            "a network with switches has no other widths to search; train one without: "
            "anywidth train --random nonuniform"
        )
    found = {
        group.name: sizes(group, piece=piece, divisor=net.divisor, min_width=net.min_width)
        for group in net.analysis.elastic
    }
    if all(len(options) == 1 for options in found.values()):
        raise SearchError(
            f"no group of the network can be narrowed at divisor {net.divisor} and min_width {net.min_width:g}; "
            "make a Supernet with a smaller divisor or min_width, or see net.summary()"
        )
    return found


def narrower(config: WidthConfig, options: dict[str, tuple[int, ...]]) -> dict[str, WidthConfig]:
    """For every group that has a smaller size, the config with one piece of it removed.

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
