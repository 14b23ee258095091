"""Which groups each draw of a proof narrows, and to how many units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, cycle
from math import comb, lcm

import numpy as np

from anywidth.groups.analysis import ChannelGroup

__all__ = ["NARROWEST", "OWN", "RANDOM", "ROUNDED", "channels_of", "meeting", "separating"]

RANDOM = range(8)
"""Draws that narrow every group to a random number of units."""

NARROWEST = len(RANDOM)
"""The draw that narrows every group as far as a proof can."""

ROUNDED = range(9, 12)
"""Draws that narrow every group to a quarter, a half and three quarters, in multiples of eight channels."""

OWN = 12
"""The draw that narrows every group to a random number of units, of a network with the user's weights."""

_MEETING = 16

_ALONE = 8
"""Up to this many groups are narrowed alone."""

_COUNTS = 4
"""To how many numbers of units a group of a small network is narrowed alone."""

_STRIDE = 64
_GOLDEN = 0.6180339887498949


def separating(groups: int, *, small: bool, most: int = _STRIDE - 1) -> list[int]:
    """Draws such that for any two of the groups, some draw narrows the first and leaves the second whole.

    A few groups are narrowed one by one, to several numbers if the network is small. Of more, every group is narrowed
    in another half of the draws, so that none of these halves contains another: seven draws are enough for 35 groups,
    ten for 252. With fewer draws than that (`most`), groups take turns at the same halves.
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
    """The draw that narrows every larger group to this number of channels, where its units permit."""
    return _MEETING + size * _STRIDE**3


def channels_of(groups: Sequence[ChannelGroup], draw: int, seed: int) -> dict[str, int]:
    """Active channels in one draw, by the names of the groups; those left whole are not listed.

    The first of several groups are narrowed alike in the same draw, whatever follows.
    """
    if draw in RANDOM or draw == OWN:
        rng = np.random.default_rng(seed + draw)
        return {g.name: int(rng.integers(_fewest(g), g.units)) * g.unit for g in groups}
    if draw == NARROWEST:
        return {g.name: _fewest(g) * g.unit for g in groups}
    if draw in ROUNDED:
        return {g.name: _rounded(g, (draw - ROUNDED.start + 1) / 4) for g in groups}
    if draw % _STRIDE**3 == _MEETING:
        size = draw // _STRIDE**3
        return {g.name: size for g in groups if size < g.channels and size % g.unit == 0}
    rest, which = divmod(draw, _STRIDE)
    rest, number = divmod(rest, _STRIDE)
    count, size = divmod(rest, _STRIDE)
    chosen = cycle([which in part for part in combinations(range(number), size)])
    return {
        group.name: _uneven(group, place, which, count) * group.unit
        for place, (group, narrowed) in enumerate(zip(groups, chosen, strict=False))
        if narrowed
    }


def _numbered(size: int, number: int, which: int, count: int) -> int:
    return ((count * _STRIDE + size) * _STRIDE + number) * _STRIDE + which


def _uneven(group: ChannelGroup, place: int, which: int, count: int) -> int:
    """Units that differ between groups of one draw where possible, and that are not half of all of them.

    Structure that halves or quarters a dimension by its size is right by chance where both parts shrink alike.
    """
    low, high = (1 if group.units <= _COUNTS + 1 else _fewest(group)), group.units - 1
    if high - low < _COUNTS:
        return low + (place + which + count) % (high - low + 1)
    share = (0.37 + (place + 1) * _GOLDEN + which * _GOLDEN**2 + count / _COUNTS) % 1
    units = low + int(share * (high - low + 1))
    if 2 * units == group.units:
        units += 1
    return units


def _fewest(group: ChannelGroup) -> int:
    """The fewest units to prove with: two channels where that is possible, because one alone has no variance."""
    return 1 if group.unit > 1 or group.units == 2 else 2


def _rounded(group: ChannelGroup, share: float) -> int:
    """Channels at a share of all, as widths round them by default."""
    step = lcm(8, group.unit)
    return min(max(round(share * group.channels / step), 1) * step, group.channels)
