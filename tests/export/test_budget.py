"""Budgets of files: which width they choose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import anywidth as aw
from anywidth.core.errors import BudgetError, ExportError
from anywidth.export import FORMATS, known_widths, onnx_latency, widest_within
from anywidth.widths import Budget, Width, parse_budget

PLAIN = aw.Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))


@settings(max_examples=50, deadline=None)
@given(st.floats(114, 500))  # the narrowest has 114 parameters and 96 MACs
def test_the_widest_within_is_within_and_the_next_is_not(limit):
    widths = [0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]
    for quantity, cost in (("macs", aw.macs), ("params", aw.params)):
        chosen = widest_within(PLAIN, Budget(quantity=quantity, high=limit), widths)
        assert cost(PLAIN, chosen) <= limit
        wider = [width for width in widths if width > chosen]
        assert all(cost(PLAIN, width) > limit for width in wider)


def test_size_is_that_of_the_written_file(tmp_path):
    limit = aw.export(PLAIN, 0.5, tmp_path / "a.safetensors").size
    chosen = widest_within(PLAIN, Budget(quantity="size", high=limit), [0.25, 0.5, 1.0], format="torch")
    assert chosen == 0.5
    assert widest_within(PLAIN, Budget(quantity="size", high=limit - 1), [0.25, 0.5, 1.0], format="torch") == 0.25


def test_latency_is_measured_by_bisection_in_the_runtime_of_the_format(monkeypatch):
    measured: list[float] = []

    def fake(net: aw.Supernet, width: float) -> float:
        measured.append(width)
        return 10 * width

    for name, latency in (("onnx", fake), ("pt2", lambda net, width: 1000.0)):
        monkeypatch.setitem(FORMATS._records, name, replace(FORMATS.find(name), latency=latency))
    widths = [0.25 + 0.05 * number for number in range(16)]
    chosen = widest_within(PLAIN, Budget(quantity="latency", high=5.2), widths)
    assert chosen == pytest.approx(0.5)
    assert len(measured) <= 5
    with pytest.raises(ExportError, match=r"within 5.2 ms: the narrowest, 0.25, takes 1000 ms"):
        widest_within(PLAIN, Budget(quantity="latency", high=5.2), widths, format="pt2")


def test_shares_and_intervals() -> None:
    widths = [0.25, 0.5, 0.75, 1.0]
    assert widest_within(PLAIN, parse_budget("macs<=0.5x"), widths) == 0.5
    assert widest_within(PLAIN, Budget(quantity="macs", low=100, high=200), widths) == 0.5
    with pytest.raises(ExportError, match="no width has macs between 193 and 200: the widest below, 0.5, takes 192"):
        widest_within(PLAIN, Budget(quantity="macs", low=193, high=200), widths)
    with pytest.raises(BudgetError, match="does not name a quantity"):
        widest_within(PLAIN, parse_budget("300M"), widths)


def test_another_file_has_to_keep_to_the_limit():
    def write(width: Width, path: Path) -> None:
        path.write_bytes(bytes(int(1000 * float(width))))  # type: ignore[arg-type]

    def onnx(width: Width, path: Path) -> None:
        aw.export(PLAIN, 1.0, path)

    widths = [0.25, 0.5, 0.75, 1.0]
    assert widest_within(PLAIN, Budget(quantity="size", high=800), widths, write=write) == 0.75
    assert widest_within(PLAIN, Budget(quantity="latency", high=1000), [1.0], write=onnx) == 1.0
    with pytest.raises(ExportError, match="the narrowest, 1, takes"):
        widest_within(PLAIN, Budget(quantity="latency", high=1e-6), [1.0], write=onnx)


def test_calibrated_widths_are_those_to_choose_from(net):
    assert {str(net.config(width)) for width in known_widths(net)} == {"0.25", "0.5", "1"}
    assert len(known_widths(PLAIN)) == 16
    switched = aw.Supernet(
        nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 2, 1)),
        torch.randn(2, 3, 4, 4),
        switches=(0.5, 1.0),
    )
    assert [dict(config) for config in known_widths(switched)] == [dict(switched.config(w)) for w in (0.5, 1.0)]


def test_time_can_be_measured_before_calibration() -> None:
    net = aw.Supernet(
        nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(64, 2)), torch.randn(1, 1, 4, 4)
    )
    with pytest.raises(aw.AnywidthError, match="has no batch-norm statistics"):
        onnx_latency(net, 0.5, repeats=1)
    assert onnx_latency(net, 0.5, repeats=1, calibrated=False) > 0
