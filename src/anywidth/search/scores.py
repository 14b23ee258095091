"""What is known of a width config."""

from __future__ import annotations

import math
from dataclasses import dataclass

from anywidth.core.errors import SearchError
from anywidth.widths import WidthConfig

__all__ = ["Evaluated", "Score", "check_score"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good a network is on the images that were held out.

    Attributes:
        accuracy: The mean score, top-1 accuracy in percent by default; more is better.
        loss: The mean loss; less is better. It decides between equal accuracies.
    """

    accuracy: float
    loss: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A network that was evaluated: its channels, score and cost."""

    config: WidthConfig
    accuracy: float
    loss: float
    cost: float


def check_score(score: Score, label: str) -> Score:
    """The score itself, if it is made of numbers.

    Raises:
        SearchError: accuracy or loss is NaN or infinite.
    """
    if not (math.isfinite(score.accuracy) and math.isfinite(score.loss)):
        raise SearchError(
            f"{label} has accuracy {score.accuracy} and loss {score.loss} on the held-out images; the weights or the "
            "images hold NaN, or training has diverged: train again with a smaller learning rate"
        )
    return score
