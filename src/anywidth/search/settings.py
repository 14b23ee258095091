"""How a search goes about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anywidth.core.errors import SearchError

__all__ = ["Objective", "SearchSettings"]

Objective = Literal["accuracy", "per-cost"]


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The settings of a search.

    Attributes:
        objective: What a removal is chosen by: `accuracy`, the highest that is left (the paper's), or `per-cost`, the
            least accuracy lost per unit of cost that is saved.
        piece: What is removed at once, as a share of a group's channels; it is rounded to the divisor.
        memory: Bytes of activations that candidates may share; 0 computes every candidate from the input on.
        channels_last: Whether images and weights are laid out with channels last, which is faster for depthwise
            layers; None does so where there are any.
    """

    objective: Objective = "accuracy"
    piece: float = 0.1
    memory: float = 2e9
    channels_last: bool | None = None

    def __post_init__(self) -> None:
        if self.objective not in ("accuracy", "per-cost"):
            raise SearchError(f"objective is {self.objective!r}; choose accuracy or per-cost")
        if not 0 < self.piece <= 1:
            raise SearchError(
                f"piece is {self.piece:g}; give the share of a group that is removed at once, such as 0.1"
            )
        if not 0 <= self.memory < math.inf:
            raise SearchError(f"memory is {self.memory:g} bytes; give 0 or more, such as 2e9")
