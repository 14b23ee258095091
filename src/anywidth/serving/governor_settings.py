"""Settings of the governor."""

from __future__ import annotations

from dataclasses import dataclass

from anywidth.core.errors import WidthError

__all__ = ["GovernorSettings"]


@dataclass(frozen=True, kw_only=True)
class GovernorSettings:
    """Target and limits of the governor.

    Attributes:
        target: Seconds from a request's arrival to its answer.
        margin: Share of the target that is reserved for work outside the governor, such as sending the answer.
        load: Maximum share of a width's capacity to use.
        min_width: The narrowest width to use.
        max_width: The widest width to use.
        max_rows: Maximum number of rows in a batch.
        hysteresis: Change to a wider width when it would use less than `load` by this share,
        hold: for this many seconds.
        memory: Seconds over which the arrival rate is averaged.
        adapt: Weight of a new measurement in the drift, in (0, 1].
    """

    target: float
    margin: float = 0.25
    load: float = 0.85
    min_width: float = 0.0
    max_width: float = 1.0
    max_rows: int = 32
    hysteresis: float = 0.1
    hold: float = 1.0
    memory: float = 1.0
    adapt: float = 0.1

    def __post_init__(self) -> None:
        shares = {"margin": self.margin, "hysteresis": self.hysteresis}
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise WidthError(f"{name} is {value}; give a share from 0 to below 1")
        for name in ("target", "load", "memory", "adapt"):
            if not getattr(self, name) > 0:
                raise WidthError(f"{name} is {getattr(self, name)}; give a number above 0")
        if self.load > 1 or self.adapt > 1:
            raise WidthError(f"load is {self.load:g} and adapt {self.adapt:g}; give shares of at most 1")
        if self.max_rows < 1 or self.hold < 0:
            raise WidthError(f"max_rows is {self.max_rows} and hold {self.hold:g}; give at least 1, and at least 0")
