"""The rate at which requests arrive."""

from __future__ import annotations

import math

__all__ = ["ArrivalRate"]


class ArrivalRate:
    """Rows that arrive per second; arrivals `memory` seconds ago have 1/e of the weight of new ones.

    >>> rate = ArrivalRate(memory=1.0)
    >>> for tick in range(1000):
    ...     rate.add(tick / 100, 2)
    >>> round(rate.at(9.99)), round(rate.at(10.99))
    (201, 74)
    """

    def __init__(self, *, memory: float) -> None:
        self.memory = memory
        self._rate = 0.0
        self._last = -math.inf

    def add(self, now: float, rows: int) -> None:
        """Record an arrival."""
        self._rate = self.at(now) + rows / self.memory
        self._last = max(now, self._last)

    def at(self, now: float) -> float:
        """Rows per second at a time, which must not be before the last arrival."""
        return self._rate * math.exp(-max(0.0, now - self._last) / self.memory)
