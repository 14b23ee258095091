"""The current speed of the machine relative to its measured times."""

from __future__ import annotations

import math

__all__ = ["Drift"]

_STEP = math.log(4.0)
"""An observation counts as at most four times slower or faster than expected, because it may be an outlier."""


class Drift:
    """The ratio of measured to expected time and its spread, as exponentially weighted means of logarithms.

    All widths share one ratio, so that it also applies to widths that have not run for a long time.

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
        """The ratio plus its mean deviation, for plans with a margin."""
        return math.exp(self._mean + self._spread)

    def observe(self, *, expected: float, measured: float) -> None:
        """Record the seconds that a batch took and the seconds that were expected from the measurements."""
        off = math.log(max(measured, 1e-9) / expected) - self._mean
        off = min(max(off, -_STEP), _STEP)
        self._mean += self.share * off
        self._spread += self.share * (abs(off) - self._spread)
