"""Rounding of channel numbers."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anywidth.groups import ChannelGroup
from anywidth.widths import make_divisible, round_channels


def group(channels: int, block_size: int = 1, ratio: int = 1) -> ChannelGroup:
    return ChannelGroup(name="conv", channels=channels, block_size=block_size, ratio=ratio)


@pytest.mark.parametrize(
    ("value", "divisor", "rounded"),
    [
        (1, 8, 8), (3, 8, 8), (8, 8, 8), (11, 8, 16), (12, 8, 16), (16, 8, 16), (17.7, 8, 16), (17.8, 8, 24),
        (18.0, 8, 24), (19.9, 8, 24), (20, 8, 24), (33, 8, 32), (35.5, 8, 32), (35.6, 8, 40), (96 * 0.35, 8, 32),
        (7, 1, 7), (7.4, 1, 7), (7.5, 1, 8), (5, 4, 8), (4.4, 4, 4), (0.1, 3, 3),
    ],
)  # fmt: skip
def test_make_divisible(value: float, divisor: int, rounded: int) -> None:
    assert make_divisible(value, divisor) == rounded


@pytest.mark.parametrize(
    ("channels", "block_size", "ratio", "divisor", "width", "rounded"),
    [
        (64, 1, 1, 8, 0.5, 32),
        (64, 1, 1, 8, 0.01, 8),
        (64, 1, 1, 8, 0.99, 64),
        (5, 1, 1, 8, 0.25, 5),  # never more than there are
        (20, 1, 1, 8, 0.9, 20),  # 18 rounds to 24, which is too many
        (144, 1, 6, 8, 0.5, 96),  # 24 before the expansion: 12 rounds to 16, times 6
        (144, 1, 6, 8, 0.35, 48),
        (96, 4, 1, 8, 0.3, 32),  # 28.8 rounds to 32
        (12, 6, 1, 8, 0.4, 6),  # the common multiple of 8 and 6 is more than there are
        (48, 6, 1, 8, 0.5, 24),
        (48, 6, 1, 8, 0.01, 24),
        (30, 3, 1, 1, 0.5, 15),
        (30, 3, 1, 1, 0.01, 3),
        (7, 7, 1, 1, 0.3, 7),
    ],
)
def test_round_channels(channels: int, block_size: int, ratio: int, divisor: int, width: float, rounded: int) -> None:
    assert round_channels(group(channels, block_size, ratio), width, divisor) == rounded


@dataclass(frozen=True)
class Size:
    blocks: int
    block_size: int
    ratio: int


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    size=st.builds(
        Size, blocks=st.integers(1, 60), block_size=st.integers(1, 6), ratio=st.sampled_from([1, 1, 1, 2, 3, 6])
    ),
    divisor=st.integers(1, 17),
    widths=st.lists(st.floats(0.001, 1.0), min_size=2, max_size=6),
)
def test_rounded_channels_are_permitted_and_grow_with_the_width(size: Size, divisor: int, widths: list[float]) -> None:
    whole = group(size.blocks * size.block_size * size.ratio, size.block_size, size.ratio)
    found = [round_channels(whole, width, divisor) for width in sorted(widths)]
    assert all(size.block_size <= channels <= whole.channels for channels in found)
    assert all(channels % size.block_size == 0 for channels in found)
    assert found == sorted(found)
