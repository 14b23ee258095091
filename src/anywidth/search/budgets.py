"""Budgets: what a network may cost at most, and at least if somebody cares."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from anywidth.core.errors import SearchError

__all__ = ["Budget", "check_budgets", "parse_budget", "parse_budgets", "share_of"]

_NUMBER = r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([kKMG%]?)"
_ONE = re.compile(rf"\s*(?:<=)?\s*{_NUMBER}\s*")
_TWO = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*")
_UNITS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "%": 0.01}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of a cost.

    Attributes:
        high: The most that a network may cost, in the unit of the cost, or as a share of the widest network.
        low: The least.
        share: Whether the limits are shares of the widest network's cost.
        text: How it was written.
    """

    high: float
    low: float = 0.0
    share: bool = False
    text: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.low <= self.high < math.inf and self.high > 0):
            raise SearchError(
                f"budget {self.text or self.high!r} is no range of costs above 0; give such as 30e6 or 50%"
            )

    def __str__(self) -> str:
        return self.text or (f"{self.low:g}-{self.high:g}" if self.low else f"{self.high:g}")

    def admits(self, cost: float) -> bool:
        """Whether a cost keeps within the limits.

        >>> parse_budget("90-100").admits(95), parse_budget("90-100").admits(80)
        (True, False)
        """
        return self.low <= cost <= self.high


def parse_budget(value: object) -> Budget:
    """A budget from a number or from what a person writes: `30e6`, `30M`, `50%`, `90e6-100e6`.

    Raises:
        SearchError: it cannot be read.

    >>> parse_budget("30M").high, parse_budget("50%"), parse_budget("90e6-100e6").low
    (30000000.0, Budget(high=0.5, low=0.0, share=True, text='50%'), 90000000.0)
    """
    if isinstance(value, Budget):
        return value
    text = f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value).strip()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Budget(high=float(value), text=text)
    if found := _ONE.fullmatch(text):
        return Budget(high=float(found[1]) * _UNITS[found[2]], share=found[2] == "%", text=text)
    if found := _TWO.fullmatch(text):
        # In 90-100M the unit at the end is that of both.
        units = (found[2] or found[4], found[4])
        if (units[0] == "%") == (units[1] == "%"):
            low, high = float(found[1]) * _UNITS[units[0]], float(found[3]) * _UNITS[units[1]]
            return Budget(low=low, high=high, share=units[1] == "%", text=text)
    raise SearchError(f"cannot read a budget from {text!r}; give such as 30e6, 30M, 50% or 90e6-100e6")


def parse_budgets(values: object) -> tuple[Budget, ...]:
    """Budgets from a list, or from text with commas.

    >>> [budget.high for budget in parse_budgets("30e6,20e6")]
    [30000000.0, 20000000.0]
    """
    parts = values.split(",") if isinstance(values, str) else values
    if not isinstance(parts, Iterable):
        parts = [parts]
    found = tuple(parse_budget(part) for part in parts)
    if not found:
        raise SearchError("there is no budget; give at least one, such as 50%")
    return found


def share_of(budget: Budget, widest: float) -> Budget:
    """The budget in the unit of the cost, if it is a share of the widest network's.

    >>> share_of(parse_budget("50%"), 80.0).high
    40.0
    """
    if not budget.share:
        return budget
    return Budget(high=budget.high * widest, low=budget.low * widest, text=str(budget))


def check_budgets(values: object, *, widest: float, narrowest: float, unit: str) -> tuple[Budget, ...]:
    """Budgets in the unit of the cost, the largest first, each of which some network can meet.

    Raises:
        SearchError: one is below what the narrowest network costs, or not below what the widest does.

    >>> [b.high for b in check_budgets("20,50%", widest=100.0, narrowest=10.0, unit="MACs")]
    [50.0, 20.0]
    """
    found = [share_of(budget, widest) for budget in parse_budgets(values)]
    for budget in found:
        if budget.high < narrowest:
            raise SearchError(
                f"budget {budget} is below the narrowest network, which takes {narrowest:.6g} {unit}; give more, "
                "or train a supernet with a smaller min_width"
            )
        if budget.high >= widest or budget.low > widest:
            raise SearchError(
                f"budget {budget} is not below the widest network, which takes {widest:.6g} {unit}; give less, "
                "or search a wider model (--width-mult 1.5)"
            )
    return tuple(sorted(set(found), key=lambda budget: (-budget.high, -budget.low)))
