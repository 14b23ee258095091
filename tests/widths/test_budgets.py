"""Budgets: what can be written, and what it means."""

from __future__ import annotations

import pytest

from anywidth.core.errors import BudgetError
from anywidth.widths import Budget, parse_budget, parse_budgets


@pytest.mark.parametrize(
    ("text", "low", "high", "share"),
    [
        ("30e6", 0, 30e6, False), (30_000_000, 0, 30e6, False), ("<=8", 0, 8, False), ("1.5G", 0, 1.5e9, False),
        ("50%", 0, 0.5, True), ("0.5x", 0, 0.5, True), ("90e6-100e6", 90e6, 100e6, False), ("90-100M", 90e6, 100e6, False),
        ("900k-1M", 9e5, 1e6, False), ("40%-50%", 0.4, 0.5, True), ("40-50%", 0.4, 0.5, True), ("1e-3", 0, 1e-3, False),
        ("1e-3-1e-2", 1e-3, 1e-2, False),
    ],
)  # fmt: skip
def test_limits_and_shares(text: object, low: float, high: float, share: bool) -> None:
    budget = parse_budget(text)
    assert (budget.low, budget.high, budget.share) == (pytest.approx(low), pytest.approx(high), share)
    assert (budget.quantity, budget.unit) == (None, "")


@pytest.mark.parametrize(
    ("text", "quantity", "high"),
    [("latency<=5ms", "latency", 5), ("latency <= 0.5s", "latency", 500), ("latency<=80us", "latency", 0.08),
     ("macs<=20e6", "macs", 2e7), ("MACs<=20M", "macs", 2e7), ("params<=1.5k", "params", 1500),
     ("size<=1MB", "size", 1e6), ("size<=1MiB", "size", 2**20), (" size<=5000B ", "size", 5000), ("macs<=50%", "macs", 0.5)],
)  # fmt: skip
def test_quantities_with_their_units(text: str, quantity: str, high: float) -> None:
    found = parse_budget(text)
    assert (found.quantity, found.high) == (quantity, pytest.approx(high))


@pytest.mark.parametrize(("text", "unit", "high"), [("20ms", "ms", 20), ("10-20 ms", "ms", 20), ("3 MB", "bytes", 3e6)])
def test_units_without_a_quantity(text: str, unit: str, high: float) -> None:
    found = parse_budget(text)
    assert (found.quantity, found.unit, found.high) == (None, unit, pytest.approx(high))


@pytest.mark.parametrize(
    "text",
    ["", "x", "-5", "0", "10-5", "40%-50", "10ms-20MB", "1e400", "nan", None, True, "3 kg", "latency", "latency<5ms",
     "latency<=5", "macs<=5ms", "macs 5", "size<=1", "speed<=3", "macs<=", "macs<=1.2.3", "macs<=0", "size<=-1MB"],
)  # fmt: skip
def test_what_is_not_a_budget_is_an_error(text: object) -> None:
    with pytest.raises(BudgetError, match="budget"):
        parse_budget(text)


def test_several() -> None:
    assert [b.high for b in parse_budgets("30e6, 20e6")] == [30e6, 20e6]
    assert [b.high for b in parse_budgets(["50%", 3])] == [0.5, 3]
    assert [b.high for b in parse_budgets(7)] == [7]
    with pytest.raises(BudgetError, match="list of budgets is empty"):
        parse_budgets([])


def test_what_a_budget_limits() -> None:
    file = {"latency": "ms", "macs": "MACs", "params": "parameters", "size": "bytes"}
    named = {"latency<=5ms": "latency", "params<=0.5x": "params", "5ms": "latency", "2MB": "size"}
    assert {text: parse_budget(text).quantity_among(file) for text in named} == named
    assert parse_budget("latency<=5ms").quantity_among({"latency-onnx": "ms"}) == "latency-onnx"
    assert parse_budget("8.5").quantity_among({"energy": "nJ"}) == "energy"
    for text, message in (
        ("300M", "budget 300M does not name a quantity; write macs<=300M"),
        ("50%", "write latency<=50%"),
        ("memory<=1MB", "limits memory, not latency or macs or params or size"),
    ):
        with pytest.raises(BudgetError, match=message):
            parse_budget(text).quantity_among(file)
    with pytest.raises(BudgetError, match="limits a number of ms, not macs"):
        parse_budget("5ms").quantity_among({"macs": "MACs"})


def test_wrong_limits_are_refused() -> None:
    for wrong in ({"high": 0}, {"high": 1, "low": 2}, {"high": float("inf")}, {"high": 1, "quantity": "speed"}):
        with pytest.raises(BudgetError, match="budget"):
            Budget(**wrong)
