"""Claims of the papers, and whether measurements bear them out."""

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
    """What the measurement says of a claim, and the difference that it says so by."""

    says: Says
    difference: Difference


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence that a difference decides: it holds if that is above 0.

    Attributes:
        text: The sentence.
        difference: What has to be above 0, from the results.
        source: `paper`, or `ours` for what we want to know besides.
    """

    text: str
    difference: Callable[[Results], Difference]
    source: Literal["paper", "ours"] = "paper"

    def judge(self, results: Results) -> Verdict:
        """Decided if the 95% confidence interval over the seeds leaves out 0; a single seed decides nothing.

        >>> from anywidth.reproduce.results import Point
        >>> results = Results({n: {s: [Point(x=1, y=s + y)] for s in (0, 1)} for n, y in (("a", 5.0), ("b", 1.0))})
        >>> Claim(text="a is better", difference=higher("a", "b")).judge(results).says
        'holds'
        """
        found = self.difference(results)
        if math.isnan(found.margin) or abs(found.mean) <= found.margin:
            return Verdict(says="undecided", difference=found)
        return Verdict(says="holds" if found.mean > 0 else "contradicted", difference=found)


def higher(arm: str, other: str, at: At = None, *, by: float = 0.0) -> Callable[[Results], Difference]:
    """How much higher an arm is than another plus `by`, as a mean over the x in `at` (by default all).

    A negative `by` asks whether it is no more than that lower.
    """
    return lambda results: results.difference(arm, other, at).plus(-by)
