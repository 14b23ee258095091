"""Search method records, and their registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from anywidth.core.errors import SearchError
from anywidth.core.registry import Registry
from anywidth.search.found import Found, Step
from anywidth.search.scorer import Scorer
from anywidth.search.scores import Evaluated
from anywidth.widths import Budget

__all__ = ["METHODS", "Outcome", "Progress", "Run", "SearchMethod"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Progress of a search.

    Attributes:
        steps: Steps so far; empty for methods without steps.
        candidate: Number of candidates evaluated in this step; without steps, in the whole search.
        candidates: Total number of candidates.
        share: Completed share of the search, in [0, 1].
    """

    steps: Sequence[Step] = ()
    candidate: int
    candidates: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a search method.

    Attributes:
        found: The network for every budget.
        evaluated: All evaluated networks.
        steps: The steps, if the method has steps.
        about: Settings and counts to store with the result, as JSON values.
    """

    found: Sequence[Found]
    evaluated: Sequence[Evaluated]
    steps: Sequence[Step] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


class Run(Protocol):
    """Interface of a search method."""

    def __call__(
        self,
        scorer: Scorer,
        budgets: Sequence[Budget],
        *,
        evaluations: int,
        seed: int,
        progress: Callable[[Progress], object],
    ) -> Outcome:
        """Run the search.

        Args:
            scorer: Scores and costs of width configs, and the sizes of every group (`scorer.options`).
            budgets: Budgets in the unit of the cost, largest first; each can be met by some network.
            evaluations: Number of networks to score, for methods that do not end by themselves.
            seed: Random seed.
            progress: To be called often.

        Raises:
            SearchError: a budget was not met.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SearchMethod:
    """One search method.

    Attributes:
        name: Name for `--method`.
        run: Runs the search.
    """

    name: str
    run: Run


METHODS = Registry(
    SearchMethod,
    kind="search method",
    package="anywidth.search.methods",
    group="anywidth.search_methods",
    error=SearchError,
)
"""Registry of search methods."""
