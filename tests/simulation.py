"""A server with one worker on a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from anywidth.serving import Decision, Governor, Waiting

__all__ = ["Outcome", "poisson", "simulate"]


@dataclass
class Outcome:
    """What became of the requests."""

    latencies: list[float] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    steady: list[float] = field(default_factory=list)

    def answered_within(self, target: float) -> float:
        return float(np.mean(np.array(self.latencies) <= target))

    @property
    def mean_width(self) -> float:
        rows = np.array([decision.rows for decision in self.decisions])
        return float(np.average([decision.width for decision in self.decisions], weights=rows))


def poisson(rate: float, seconds: float, seed: int = 0) -> list[float]:
    gaps = np.random.default_rng(seed).exponential(1 / rate, size=int(rate * seconds))
    return np.cumsum(gaps).tolist()


def simulate(
    governor: Governor, arrivals: list[float], took: Callable[[float, int, float], float], *, refine: bool = False
) -> Outcome:
    """Every request is answered; `took(width, rows, now)` is what a batch really takes.

    With `refine`, a batch goes through the widths in turn, and each takes what it takes longer than the last one.
    """
    outcome, now, queue, pending = Outcome(), 0.0, [], list(reversed(arrivals))
    while pending or queue:
        if not queue:
            now = max(now, pending[-1])
        queue += _arrived(governor, pending, now)
        decision = governor.decide(now, queue)
        members = [queue[place] for place in decision.members]
        queue = [waiting for place, waiting in enumerate(queue) if place not in decision.members]
        start = now
        if refine:
            spent = 0.0
            for width in governor.times.widths:
                step = took(width, decision.rows, start) - spent
                spent, now = spent + step, now + step
                queue += _arrived(governor, pending, now)
                if width == decision.width:
                    break
                if not governor.goes_on(now, decision, width, members, queue):
                    decision = governor.cut(decision, width)
                    break
        else:
            now += took(decision.width, decision.rows, now)
        governor.finished(decision, now - start)
        outcome.latencies += [now - member.arrived for member in members]
        outcome.decisions.append(decision)
        outcome.steady.append(governor.steady)
    return outcome


def _arrived(governor: Governor, pending: list[float], now: float) -> list[Waiting]:
    """Who has arrived by now, the first to come first."""
    found = []
    while pending and pending[-1] <= now:
        found.append(Waiting(arrived=pending.pop()))
        governor.arrived(found[-1].arrived)
    return found
