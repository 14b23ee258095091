"""Claims of the papers, and verdicts from measurements."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from anywidth.reproduce.results import At, Difference, Results

__all__ = ["Claim", "Verdict", "higher"]

Says = Literal["holds", "undecided", "contradicted"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on a claim, and the measured difference that decides it."""

    says: Says
    difference: Difference


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement that holds if a difference is above a number.

    Attributes:
        text: The statement.
        difference: Computes the difference from the results.
        above: The number, by default 0. "At most 2 points worse" is a difference above -2.
        source: `paper`, or `ours` for our own questions.
    """

    text: str
    difference: Callable[[Results], Difference]
    above: float = 0.0
    source: Literal["paper", "ours"] = "paper"

    def judge(self, results: Results) -> Verdict:
        """The verdict: decided if the 95% confidence interval over the seeds excludes `above`.

        One seed decides nothing.

        >>> from anywidth.reproduce.results import Point
        >>> results = Results({n: {s: [Point(x=1, y=s + y)] for s in (0, 1)} for n, y in (("a", 5.0), ("b", 1.0))})
        >>> Claim(text="a is better", difference=higher("a", "b")).judge(results).says
        'holds'
        """
        found = self.difference(results)
        excess = found.mean - self.above
        if math.isnan(found.margin) or abs(excess) <= found.margin:
            return Verdict(says="undecided", difference=found)
        return Verdict(says="holds" if excess > 0 else "contradicted", difference=found)


def higher(arm: str, other: str, at: At = None) -> Callable[[Results], Difference]:
    """The difference of an arm to another one, as a mean over the x in `at` (by default all)."""
    return lambda results: results.difference(arm, other, at)
