"""How much slower the machine is now than when its times were measured."""

from __future__ import annotations

import math

__all__ = ["Drift"]

_STEP = math.log(4.0)
"""One observation counts as at most four times slower or quicker than expected: it may be an accident."""


class Drift:
    """The ratio of measured to expected time and its spread, as exponentially weighted means of logarithms.

    One ratio serves all widths, so that those that have not run for long follow as well.

    Args:
        share: Weight of a new observation, in (0, 1].

    >>> drift = Drift(0.5)
    >>> for _ in range(20):
    ...     drift.observe(expected=0.010, measured=0.020)
    >>> round(drift.ratio, 3), round(drift.cautious, 2)
    (2.0, 2.0)
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._mean = 0.0
        self._spread = 0.0

    @property
    def ratio(self) -> float:
        """Measured over expected time; 1 before the first observation."""
        return math.exp(self._mean)

    @property
    def cautious(self) -> float:
        """The ratio with the mean deviation from it on top, for plans that have to hold."""
        return math.exp(self._mean + self._spread)

    def observe(self, *, expected: float, measured: float) -> None:
        """Take in what a batch took, in seconds, and what it was measured to take at the start."""
        off = math.log(max(measured, 1e-9) / expected) - self._mean
        off = min(max(off, -_STEP), _STEP)
        self._mean += self.share * off
        self._spread += self.share * (abs(off) - self._spread)
