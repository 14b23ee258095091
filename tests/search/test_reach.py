"""Budgets that no network can meet."""

from __future__ import annotations

import pytest

from anywidth.core.errors import BudgetError, SearchError
from anywidth.cost import NamedCost
from anywidth.search.reach import reachable
from anywidth.widths import Budget

MACS = NamedCost(name="macs", unit="MACs", function=lambda net, config: 1.0)


def test_budgets_are_checked_sorted_and_counted_once() -> None:
    found = reachable("20,50%,20", MACS, widest=100, narrowest=10)
    assert [(str(b), b.high) for b in found] == [("50%", 50), ("20", 20)]
    for budget, message in (
        ("5", "budget 5 is below the narrowest network's cost of 10 MACs"),
        ("5%", "budget 5% is below the narrowest"),
        ("150", "budget 150 is not below the widest network's cost of 100 MACs"),
        ("100%", "is not below the widest"),
    ):
        with pytest.raises(SearchError, match=message):
            reachable(budget, MACS, widest=100, narrowest=10)
    assert reachable(Budget(high=10), MACS, widest=100, narrowest=10)[0].high == 10


def test_a_budget_of_something_else_is_refused() -> None:
    assert reachable("macs<=20", MACS, widest=100, narrowest=10)[0].high == 20
    for budget in ("latency<=5ms", "5ms", "params<=20"):
        with pytest.raises(BudgetError, match="not macs"):
            reachable(budget, MACS, widest=100, narrowest=10)
