"""What a search method is, and the table of all."""

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
    """How far a search is.

    Attributes:
        steps: The steps so far; empty for methods without steps.
        candidate: How many candidates of the next step are evaluated; without steps, of the whole search.
        candidates: How many there are.
        share: How much of the way lies behind, in [0, 1].
    """

    steps: Sequence[Step] = ()
    candidate: int
    candidates: int
    share: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a method found.

    Attributes:
        found: The network for every budget.
        evaluated: All networks that were evaluated.
        steps: The way there, if the method takes steps.
        about: Settings and counts to keep with the result, as JSON values.
    """

    found: Sequence[Found]
    evaluated: Sequence[Evaluated]
    steps: Sequence[Step] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


class Run(Protocol):
    """The function of a search method."""

    def __call__(
        self,
        scorer: Scorer,
        budgets: Sequence[Budget],
        *,
        evaluations: int,
        seed: int,
        progress: Callable[[Progress], object],
    ) -> Outcome:
        """Search.

        Args:
            scorer: Scores and costs of width configs, and the sizes that every group may have (`scorer.options`).
            budgets: In the unit of the cost, the largest first; each can be met by some network.
            evaluations: How many networks to score, for methods that do not end by themselves.
            seed: Seed of what is drawn.
            progress: To be called often.

        Raises:
            SearchError: a budget was not met.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class SearchMethod:
    """One way to search.

    Attributes:
        name: What `--method` calls it.
        run: The search.
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
"""All search methods by name."""
