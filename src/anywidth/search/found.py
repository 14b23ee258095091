"""Steps of a search, and the networks that it found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from anywidth.core.errors import SearchError
from anywidth.search.scores import Evaluated
from anywidth.widths import Budget

__all__ = ["Found", "Step", "best_within"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One removal; the first step, which has no group, is the widest network.

    Attributes:
        number: Number of the step, from 0.
        group: The narrowed group.
        channels: Its number of channels after the removal.
        network: The network after the removal.
        candidates: Number of removals that were tried.
        seconds: Duration; 0 if all results were known.
    """

    number: int
    group: str | None
    channels: int | None
    network: Evaluated
    candidates: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """The network found for a budget."""

    budget: Budget
    network: Evaluated


def best_within(networks: Iterable[Evaluated], budgets: Sequence[Budget]) -> list[Found]:
    """Best network within each budget; ties go to the lower loss, then to the lower cost.

    Raises:
        SearchError: no network is within a budget.

    >>> from anywidth.widths import WidthConfig, parse_budget
    >>> points = [(1.0, 50.0), (2.0, 40.0), (3.0, 60.0)]
    >>> networks = [Evaluated(config=WidthConfig({}), score=a, loss=0.0, cost=c) for c, a in points]
    >>> best_within(networks, [parse_budget(2)])[0].network.score
    50.0
    """
    known, found = list(networks), []
    for budget in budgets:
        inside = [network for network in known if budget.admits(network.cost)]
        if not inside:
            raise SearchError(f"the search found no network within budget {budget}; allow more evaluations")
        best = max(inside, key=lambda network: (network.rank, -network.loss, -network.cost))
        found.append(Found(budget=budget, network=best))
    return found
