"""What the tests of serving share beside fixtures."""

from __future__ import annotations

from typing import Any

from anywidth.serving import Governor, GovernorSettings, Limits, ServiceTimes

__all__ = ["LIMITS", "WIDTHS", "make_governor"]

WIDTHS = (0.25, 0.5, 1.0)
LIMITS = Limits(body=200_000, rows=8, pixels=100_000, queue=64, receive=10.0, answer=20.0)


def make_governor(target: float = 5.0, **settings: Any) -> Governor:
    """A governor that believes every row to take a millisecond at full width."""
    times = ServiceTimes({w: {n: 0.001 * w * n for n in (1, 2, 4, 8)} for w in WIDTHS})
    return Governor(times, GovernorSettings(target=target, max_rows=8, **settings))
