"""Budgets as people write them, and what cannot be met."""

from __future__ import annotations

import pytest

from anywidth.core.errors import SearchError
from anywidth.search.budgets import Budget, check_budgets, parse_budget, parse_budgets


@pytest.mark.parametrize(
    ("text", "low", "high", "share"),
    [
        ("30e6", 0, 30e6, False), (30_000_000, 0, 30e6, False), ("<=8", 0, 8, False), ("1.5G", 0, 1.5e9, False),
        ("50%", 0, 0.5, True), ("90e6-100e6", 90e6, 100e6, False), ("90-100M", 90e6, 100e6, False),
        ("900k-1M", 9e5, 1e6, False), ("40%-50%", 0.4, 0.5, True), ("1e-3", 0, 1e-3, False), ("1e-3-1e-2", 1e-3, 1e-2, False),
    ],
)  # fmt: skip
def test_budgets_are_read(text: object, low: float, high: float, share: bool) -> None:
    budget = parse_budget(text)
    assert (budget.low, budget.high, budget.share) == (pytest.approx(low), pytest.approx(high), share)


@pytest.mark.parametrize("text", ["", "x", "-5", "0", "10-5", "40%-50", "1e400", "nan", None, True, "3 MB"])
def test_nonsense_is_told(text: object) -> None:
    with pytest.raises(SearchError, match="budget"):
        parse_budget(text)


def test_several() -> None:
    assert [b.high for b in parse_budgets("30e6, 20e6")] == [30e6, 20e6]
    assert [b.high for b in parse_budgets(["50%", 3])] == [0.5, 3]
    assert [b.high for b in parse_budgets(7)] == [7]
    with pytest.raises(SearchError, match="no budget"):
        parse_budgets([])


def test_they_are_checked_sorted_and_counted_once() -> None:
    found = check_budgets("20,50%,20", widest=100, narrowest=10, unit="MACs")
    assert [(str(b), b.high) for b in found] == [("50%", 50), ("20", 20)]
    for budget, message in (
        ("5", "budget 5 is below the narrowest network, which takes 10 MACs"),
        ("5%", "budget 5% is below the narrowest"),
        ("150", "budget 150 is not below the widest network, which takes 100 MACs"),
        ("100%", "is not below the widest"),
    ):
        with pytest.raises(SearchError, match=message):
            check_budgets(budget, widest=100, narrowest=10, unit="MACs")
    assert check_budgets(Budget(high=10), widest=100, narrowest=10, unit="")[0].high == 10
