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
        accuracy: Mean score, by default top-1 accuracy in percent; higher is better.
        loss: Mean loss; lower is better. It breaks ties between equal accuracies.
    """

    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """An evaluated network: its channels, score and cost."""

    config: WidthConfig
    accuracy: float
    loss: float
    cost: float


def check_score(score: Score, label: str) -> Score:
    """The score itself, if it is finite.

    Raises:
        SearchError: accuracy or loss is NaN or infinite.
    """
    if not (math.isfinite(score.accuracy) and math.isfinite(score.loss)):
        raise SearchError(
            f"{label} has accuracy {score.accuracy} and loss {score.loss} on the held-out images; the weights or the "
            "images contain NaN, or training diverged: train again with a smaller learning rate"
        )
    return score
