"""The groups that each draw of a proof narrows, and their numbers of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, cycle
from math import comb

import numpy as np

from anywidth.groups.analysis import ChannelGroup
from anywidth.widths.rounding import round_channels

__all__ = ["NARROWEST", "OWN", "RANDOM", "ROUNDED", "channels_of", "meeting", "separating"]

RANDOM = range(8)
"""Draws that narrow every group to a random number of blocks."""

NARROWEST = len(RANDOM)
"""The draw that narrows every group as far as a proof can."""

ROUNDED = range(9, 12)
"""Draws that narrow every group to a quarter, a half and three quarters, in multiples of eight channels."""

OWN = 12
"""The draw that narrows every group to a random number of blocks, of a network with the user's weights."""

_MEETING = 16

_ALONE = 8
"""Up to this many groups are narrowed one at a time."""

_COUNTS = 4
"""Numbers of blocks to which a single group of a small network is narrowed."""

_STRIDE = 64
_GOLDEN = 0.6180339887498949


def separating(groups: int, *, small: bool, most: int = _STRIDE - 1) -> list[int]:
    """Draws such that, for any two groups, one draw narrows the first and leaves the second whole.

    A few groups are narrowed one by one, to several numbers of blocks if the network is small. With more groups, each
    is narrowed in a different half of the draws, so that no half contains another: seven draws are enough for 35
    groups, ten for 252. If that needs more than `most` draws, groups share the same halves in turn.
    """
    number, size = groups, 1
    if groups > _ALONE:
        number = next(k for k in range(_STRIDE) if comb(k, k // 2) >= groups)
        size = number // 2
    elif small:
        return [_numbered(1, number, which, count) for count in range(_COUNTS) for which in range(number)]
    if number > most:
        number, size = most, most // 2
    return [_numbered(size, number, which, 1) for which in range(number)] if groups > 1 else []


def meeting(size: int) -> int:
    """The draw that narrows every larger group to this number of channels, if its blocks permit."""
    return _MEETING + size * _STRIDE**3


def channels_of(groups: Sequence[ChannelGroup], draw: int, seed: int) -> dict[str, int]:
    """Active channels in one draw, by group name; groups left whole are omitted.

    In one draw, a group is narrowed in the same way regardless of the groups after it.
    """
    if draw in RANDOM or draw == OWN:
        rng = np.random.default_rng(seed + draw)
        return {g.name: int(rng.integers(_fewest(g), g.blocks)) * g.block_size for g in groups}
    if draw == NARROWEST:
        return {g.name: _fewest(g) * g.block_size for g in groups}
    if draw in ROUNDED:
        return {g.name: round_channels(g, (draw - ROUNDED.start + 1) / 4, 8) for g in groups}
    if draw % _STRIDE**3 == _MEETING:
        size = draw // _STRIDE**3
        return {g.name: size for g in groups if size < g.channels and size % g.block_size == 0}
    rest, which = divmod(draw, _STRIDE)
    rest, number = divmod(rest, _STRIDE)
    count, size = divmod(rest, _STRIDE)
    chosen = cycle([which in part for part in combinations(range(number), size)])
    return {
        group.name: _uneven(group, place, which, count) * group.block_size
        for place, (group, narrowed) in enumerate(zip(groups, chosen, strict=False))
        if narrowed
    }


def _numbered(size: int, number: int, which: int, count: int) -> int:
    return ((count * _STRIDE + size) * _STRIDE + number) * _STRIDE + which


def _uneven(group: ChannelGroup, place: int, which: int, count: int) -> int:
    """Units that differ between the groups of one draw if possible, and are not half of the blocks.

    Code that halves or quarters a dimension by its size is right by chance if both parts shrink equally.
    """
    low, high = (1 if group.blocks <= _COUNTS + 1 else _fewest(group)), group.blocks - 1
    if high - low < _COUNTS:
        return low + (place + which + count) % (high - low + 1)
    share = (0.37 + (place + 1) * _GOLDEN + which * _GOLDEN**2 + count / _COUNTS) % 1
    blocks = low + int(share * (high - low + 1))
    if 2 * blocks == group.blocks:
        blocks += 1
    return blocks


def _fewest(group: ChannelGroup) -> int:
    """The fewest blocks for a proof: two channels if possible, because a single one has no variance."""
    return 1 if group.block_size > 1 or group.blocks == 2 else 2
