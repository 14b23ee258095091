"""Learning-rate schedules per step."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["SCHEDULES", "Schedule", "warmup_cosine", "warmup_linear", "warmup_steps"]

Schedule = Callable[..., float]
"""`schedule(step, *, warmup, total)`: the learning-rate factor of a step, counted from 0."""


def warmup_cosine(step: int, *, warmup: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to 0.

    >>> [round(warmup_cosine(step, warmup=2, total=6), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * _done(step, warmup, total)))


def warmup_linear(step: int, *, warmup: int, total: int) -> float:
    """Linear warm-up, then linear decay to 0, as in the recipes of US-Nets and AutoSlim.

    >>> [round(warmup_linear(step, warmup=2, total=6), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    return (step + 1) / warmup if step < warmup else 1 - _done(step, warmup, total)


def warmup_steps(step: int, *, warmup: int, total: int) -> float:
    """Linear warm-up, then a tenfold decay after 30%, 60% and 90% of all steps, as in Slimmable Networks.

    >>> [round(warmup_steps(step, warmup=1, total=10), 3) for step in range(10)]
    [1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.1 ** sum(10 * step >= tenths * total for tenths in (3, 6, 9))


SCHEDULES: dict[str, Schedule] = {"cosine": warmup_cosine, "linear": warmup_linear, "steps": warmup_steps}
"""Schedules by name."""


def _done(step: int, warmup: int, total: int) -> float:
    return min(1.0, (step - warmup) / max(1, total - warmup))
