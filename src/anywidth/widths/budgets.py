"""Budgets: limits on the cost of a network."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from anywidth.core.errors import BudgetError

__all__ = ["Budget", "parse_budget", "parse_budgets"]

_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30}
_SHARES = {"%": 0.01, "x": 1.0}
_UNITS = [("", _COUNTS), ("ms", _TIMES), ("bytes", _BYTES), ("share", _SHARES)]
QUANTITIES = {"latency": "ms", "macs": "", "params": "", "memory": "bytes", "size": "bytes"}
"""Quantities that a budget can limit, with their units; counts have no unit."""

_NUMBER = r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*(%|[a-z]*)"
_MOST = re.compile(rf"\s*(?:([a-z]+)\s*)?(?:<=)?\s*{_NUMBER}\s*", re.IGNORECASE)
_BETWEEN = re.compile(rf"\s*{_NUMBER}\s*-\s*{_NUMBER}\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits on the cost of a network.

    Attributes:
        high: Upper limit: milliseconds, bytes, a count, or a share of the widest network's cost.
        low: Lower limit.
        share: Whether the limits are shares of the widest network's cost.
        quantity: The limited quantity (latency, macs, params, memory or size); None if not given.
        unit: Unit of the limits: ms or bytes; empty for counts, shares and unknown units.
        text: The budget as written.
    """

    high: float
    low: float = 0.0
    share: bool = False
    quantity: str | None = None
    unit: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        if self.quantity is not None and self.quantity not in QUANTITIES:
            raise BudgetError(f"a budget cannot limit {self.quantity!r}; choose one of {', '.join(QUANTITIES)}")
        if not (0 <= self.low <= self.high < math.inf and self.high > 0):
            raise BudgetError(f"budget {self} is not a range of costs above 0; give one such as 30e6 or 50%")

    def __str__(self) -> str:
        return self.text or (f"{self.low:g}-{self.high:g}" if self.low else f"{self.high:g}")

    def admits(self, cost: float) -> bool:
        """Whether a cost is within the limits.

        >>> parse_budget("90-100").admits(95), parse_budget("90-100").admits(80)
        (True, False)
        """
        return self.low <= cost <= self.high

    def quantity_among(self, units: Mapping[str, str]) -> str:
        """The limited quantity among `units`: the one that the budget names, or the only one with its unit.

        A name such as `latency-onnx` counts as a latency.

        Args:
            units: Unit of each quantity; `ms` and `bytes` mark times and sizes.

        Raises:
            BudgetError: no quantity matches, or several do.

        >>> parse_budget("5ms").quantity_among({"latency": "ms", "macs": "MACs"})
        'latency'
        """
        if self.quantity is not None:
            found = [name for name in units if name.partition("-")[0] == self.quantity]
        else:
            found = [name for name, unit in units.items() if self.unit in ("", unit)]
        if len(found) == 1:
            return found[0]
        if found:
            such = next((name for name in found if self.share or QUANTITIES.get(name) == self.unit), found[0])
            raise BudgetError(f"budget {self} does not name a quantity; write {such}<={self}, for example")
        raise BudgetError(
            f"budget {self} limits {self.quantity or f'a number of {self.unit}'}, not {' or '.join(units)}"
        )

    def absolute(self, widest: float) -> Budget:
        """Budget in absolute units; shares are multiplied by the cost of the widest network.

        >>> parse_budget("50%").absolute(80.0).high
        40.0
        """
        if not self.share:
            return replace(self, quantity=None, unit="")
        return Budget(high=self.high * widest, low=self.low * widest, text=str(self))


def parse_budget(value: object) -> Budget:
    """Parse a budget from a number or text.

    | text | meaning |
    |---|---|
    | `30e6`, `300M` | at most this cost, in the unit of the cost |
    | `20ms`, `80us`, `1MB`, `4KiB` | at most this time or this many bytes |
    | `50%`, `0.5x` | at most this share of the widest network's cost |
    | `90M-100M`, `90-100M`, `40%-50%` | at least the first and at most the second value |
    | `latency<=5ms`, `macs<=20e6`, `size<=1MB` | at most this value of the named quantity |

    Raises:
        BudgetError: the budget cannot be parsed.

    >>> parse_budget("300M").high, parse_budget("0.5x").share, parse_budget("90e6-100e6").low
    (300000000.0, True, 90000000.0)
    >>> parse_budget("latency<=5ms")
    Budget(high=5.0, low=0.0, share=False, quantity='latency', unit='ms', text='latency<=5ms')
    """
    if isinstance(value, Budget):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Budget(high=float(value), text=f"{value:g}")
    text = str(value).strip()
    found = _read(text)
    if found is None:
        raise BudgetError(
            f"cannot read a budget from {text!r}; give one such as 300M, 50%, 90M-100M, latency<=5ms, macs<=20e6 "
            "or size<=1MB"
        )
    return found


def parse_budgets(values: object) -> tuple[Budget, ...]:
    """Parse budgets from a list, or from comma-separated text.

    Raises:
        BudgetError: a budget cannot be parsed, or the list is empty.

    >>> [budget.high for budget in parse_budgets("30e6,20e6")]
    [30000000.0, 20000000.0]
    """
    parts = values.split(",") if isinstance(values, str) else values
    if not isinstance(parts, Iterable):
        parts = [parts]
    found = tuple(parse_budget(part) for part in parts)
    if not found:
        raise BudgetError("the list of budgets is empty; give at least one, such as 50%")
    return found


def _read(text: str) -> Budget | None:
    """Parse a budget; None if the text is not a budget."""
    quantity, low = None, "0"
    if found := _MOST.fullmatch(text):
        quantity, high, (unit, factor) = found[1] and found[1].lower(), found[2], _unit(found[3])
        factors = factor, factor
    elif found := _BETWEEN.fullmatch(text):
        low, high = found[1], found[3]
        # In 90-100M, the unit at the end applies to both limits.
        (first, *factors), (unit, factor) = _unit(found[2] or found[4]), _unit(found[4])
        factors = factors[0], factor
        if first != unit:
            return None
    else:
        return None
    if unit is None or (quantity is not None and ("<=" not in text or quantity not in QUANTITIES)):
        return None
    is_share = unit == "share"
    if quantity is not None and not is_share and unit != QUANTITIES[quantity]:
        return None
    return Budget(
        high=float(high) * factors[1], low=float(low) * factors[0], share=is_share, quantity=quantity,
        unit="" if is_share else unit, text=text,
    )  # fmt: skip


def _unit(text: str) -> tuple[str | None, float]:
    """Unit and multiplier that a suffix stands for; the unit is None if the suffix is unknown."""
    for unit, factors in _UNITS:
        if text.lower() in factors:
            return unit, factors[text.lower()]
    return None, math.nan
