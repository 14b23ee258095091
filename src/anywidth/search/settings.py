"""Settings of a search."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anywidth.core.errors import SearchError

__all__ = ["Objective", "SearchSettings"]

Objective = Literal["score", "per-cost"]


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Settings of a search.

    Attributes:
        objective: Criterion for a removal: `score`, the best remaining score (as in the paper), or `per-cost`,
            the least score lost per unit of cost saved.
        step_fraction: Share of a group's channels to remove per step, rounded to the divisor.
        memory: Bytes of activations that candidates may share; 0 computes every candidate from the input.
        channels_last: Whether images and weights use the channels-last memory format, which is faster for depthwise
            layers; None uses it for networks with depthwise layers.
    """

    objective: Objective = "score"
    step_fraction: float = 0.1
    memory: float = 2e9
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        if self.objective not in ("score", "per-cost"):
            raise SearchError(f"objective is {self.objective!r}; choose score or per-cost")
        if not 0 < self.step_fraction <= 1:
            raise SearchError(
                f"step_fraction is {self.step_fraction:g}; give the share of a group to remove per step, such as 0.1"
            )
        if not 0 <= self.memory < math.inf:
            raise SearchError(f"memory is {self.memory:g} bytes; give 0 or more, such as 2e9")
