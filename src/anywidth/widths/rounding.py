"""The papers' rounding of channel numbers."""

from __future__ import annotations

__all__ = ["make_divisible"]


def make_divisible(value: float, divisor: int = 8) -> int:
    """A multiple of `divisor` near `value`, one more if that falls below 0.9 of the value.

    >>> make_divisible(33), make_divisible(11), make_divisible(3)
    (32, 16, 8)
    """
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
