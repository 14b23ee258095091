"""Budgets: what can be written, and which width they choose."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import anywidth as aw
from anywidth.core.errors import ExportError
from anywidth.export import Budget, known_widths, onnx_latency, parse_budget, widest_within
from anywidth.export import budget as module
from anywidth.widths import Width

PLAIN = aw.Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))


@pytest.mark.parametrize(
    ("text", "quantity", "limit"),
    [("latency<=5ms", "latency", 5), ("latency <= 0.5s", "latency", 500), ("latency<=80us", "latency", 0.08),
     ("macs<=20e6", "macs", 2e7), ("MACs<=20M", "macs", 2e7), ("params<=1.5k", "params", 1500),
     ("size<=1MB", "size", 1e6), ("size<=1MiB", "size", 2**20), (" size<=5000B ", "size", 5000)],
)  # fmt: skip
def test_budgets_are_read_with_their_units(text, quantity, limit):
    found = parse_budget(text)
    assert (found.quantity, found.limit) == (quantity, pytest.approx(limit))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latency",
        "latency<5ms",
        "latency<=5",
        "macs<=5ms",
        "size<=1",
        "speed<=3",
        "macs<=",
        "macs<=1.2.3",
        "macs<=0",
        "size<=-1MB",
    ],
)
def test_what_is_no_budget_is_an_error(text):
    with pytest.raises(ExportError, match="budget"):
        parse_budget(text)


@settings(max_examples=50, deadline=None)
@given(st.floats(114, 500))  # the narrowest has 114 parameters and 96 MACs
def test_the_widest_within_is_within_and_the_next_is_not(limit):
    widths = [0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]
    for quantity, cost in (("macs", aw.macs), ("params", aw.params)):
        chosen = widest_within(PLAIN, Budget(quantity=quantity, limit=limit), widths)
        assert cost(PLAIN, chosen) <= limit
        wider = [width for width in widths if width > chosen]
        assert all(cost(PLAIN, width) > limit for width in wider)


def test_size_is_that_of_the_written_file(tmp_path):
    limit = aw.export(PLAIN, 0.5, tmp_path / "a.safetensors").size
    chosen = widest_within(PLAIN, Budget(quantity="size", limit=limit), [0.25, 0.5, 1.0], format="torch")
    assert chosen == 0.5
    assert widest_within(PLAIN, Budget(quantity="size", limit=limit - 1), [0.25, 0.5, 1.0], format="torch") == 0.25


def test_latency_is_measured_by_bisection_in_the_runtime_of_the_format(monkeypatch):
    measured: list[float] = []

    def fake(net: aw.Supernet, width: float) -> float:
        measured.append(width)
        return 10 * width

    monkeypatch.setattr(module, "onnx_latency", fake)
    monkeypatch.setattr(module, "latency", lambda net, width: 1000.0)
    widths = [0.25 + 0.05 * number for number in range(16)]
    chosen = widest_within(PLAIN, Budget(quantity="latency", limit=5.2), widths)
    assert chosen == pytest.approx(0.5)
    assert len(measured) <= 5
    with pytest.raises(ExportError, match=r"within 5.2 ms: the narrowest, 0.25, takes 1000 ms"):
        widest_within(PLAIN, Budget(quantity="latency", limit=5.2), widths, format="pt2")


def test_another_file_has_to_keep_to_the_limit():
    def write(width: Width, path: Path) -> None:
        path.write_bytes(bytes(int(1000 * float(width))))  # type: ignore[arg-type]

    def onnx(width: Width, path: Path) -> None:
        aw.export(PLAIN, 1.0, path)

    widths = [0.25, 0.5, 0.75, 1.0]
    assert widest_within(PLAIN, Budget(quantity="size", limit=800), widths, write=write) == 0.75
    assert widest_within(PLAIN, Budget(quantity="latency", limit=1000), [1.0], write=onnx) == 1.0
    with pytest.raises(ExportError, match="the narrowest, 1, takes"):
        widest_within(PLAIN, Budget(quantity="latency", limit=1e-6), [1.0], write=onnx)


def test_calibrated_widths_are_those_to_choose_from(net):
    assert {net.label(width) for width in known_widths(net)} == {"0.25", "0.5", "1"}
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
