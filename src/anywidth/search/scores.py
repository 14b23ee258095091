"""Scores of width configs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from anywidth.core.errors import SearchError
from anywidth.widths import WidthConfig

__all__ = ["Evaluated", "Score", "check_score"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Quality of a network on held-out images.

    Attributes:
        value: Score, by default top-1 accuracy in percent.
        loss: Mean loss; lower is better. It breaks ties between equal scores.
    """

    value: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluated network: its channels, score, loss and cost.

    Attributes:
        higher_is_better: Whether networks with a higher score are better.

    >>> Evaluated(config=WidthConfig({}), score=0.4, loss=0.1, cost=7.0, higher_is_better=False).rank
    -0.4
    """

    config: WidthConfig
    score: float
    loss: float
    cost: float
    higher_is_better: bool = True

    @property
    def rank(self) -> float:
        """The score, with its sign changed if lower scores are better."""
        return self.score if self.higher_is_better else -self.score


def check_score(score: Score, label: str) -> Score:
    """The score itself, if it is finite.

    Raises:
        SearchError: score or loss is NaN or infinite.
    """
    if not (math.isfinite(score.value) and math.isfinite(score.loss)):
        raise SearchError(
            f"{label} has score {score.value} and loss {score.loss} on the held-out images; the weights or the "
            "images contain NaN, or training diverged: train again with a smaller learning rate"
        )
    return score
