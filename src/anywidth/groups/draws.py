"""Which groups each draw of a proof narrows, and to how many units."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, islice
from math import comb

import numpy as np

from anywidth.groups.analysis import ChannelGroup

__all__ = ["NARROWEST", "RANDOM", "channels_of", "separating"]

RANDOM = range(8)
"""Draws that narrow every group to a random number of units."""

NARROWEST = len(RANDOM)
"""The draw that narrows every group as far as a proof can."""

_ALONE = 8
"""Up to this many groups are narrowed alone, one in each draw."""

_STRIDE = 64
_GOLDEN = 0.6180339887498949


def separating(groups: int) -> list[int]:
    """Draws such that for any two of the groups, some draw narrows the first and leaves the second whole.

    A few groups are narrowed one by one. Of more, every group is narrowed in another half of the draws, so that none of
    these halves contains another: seven draws are enough for 35 groups, ten for 252.
    """
    if groups < 2:
        return []
    number, size = groups, 1
    if groups > _ALONE:
        number = next(k for k in range(_STRIDE) if comb(k, k // 2) >= groups)
        size = number // 2
    return [((size * _STRIDE) + number) * _STRIDE + which for which in range(number)]


def channels_of(groups: Sequence[ChannelGroup], draw: int, seed: int) -> dict[str, int]:
    """Active channels in one draw, by the names of the groups; those left whole are not listed.

    The first of several groups are narrowed alike in the same draw, whatever follows.
    """
    if draw in RANDOM:
        rng = np.random.default_rng(seed + draw)
        return {g.name: int(rng.integers(_fewest(g), g.units)) * g.unit for g in groups}
    if draw == NARROWEST:
        return {g.name: _fewest(g) * g.unit for g in groups}
    size, number, which = draw // _STRIDE**2, draw // _STRIDE % _STRIDE, draw % _STRIDE
    chosen = [which in part for part in islice(combinations(range(number), size), len(groups))]
    return {
        group.name: _uneven(group, place, which) * group.unit
        for place, group in enumerate(groups)
        if chosen[place]
    }


def _uneven(group: ChannelGroup, place: int, which: int) -> int:
    """Units that differ between groups of one draw where possible, and that are not half of all of them.

    Structure that halves or quarters a dimension by its size is right by chance where both parts shrink alike.
    """
    low, high = _fewest(group), group.units - 1
    share = (0.37 + (place + 1) * _GOLDEN + which * _GOLDEN**2) % 1
    units = low + int(share * (high - low + 1))
    if 2 * units == group.units and high > low:
        units += 1 if units < high else -1
    return units


def _fewest(group: ChannelGroup) -> int:
    """The fewest units to prove with: two channels where that is possible, because one alone has no variance."""
    return 1 if group.unit > 1 or group.units == 2 else 2
