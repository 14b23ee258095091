"""Costs with names, memory of activations, and the latency model."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import torch._inductor.compile_fx
from torch import nn

import anywidth as aw
from anywidth.core.errors import AnywidthError, CheckpointError, SearchError
from anywidth.cost import LatencyModel, NamedCost, activation_memory, fit_latency, latency, named_cost
from anywidth.models import build_model
from built_once import built_once


@built_once
def digits() -> aw.Supernet:
    return aw.Supernet(build_model("digits", num_classes=4, input_shape=(1, 8, 8)), torch.randn(1, 1, 8, 8), divisor=2)


def test_names_and_units() -> None:
    costs = [named_cost(cost) for cost in (aw.macs, aw.params, aw.latency, activation_memory)]
    assert [(c.name, c.unit) for c in costs] == [
        ("macs", "MACs"), ("params", "parameters"), ("latency", "ms"), ("memory", "bytes")
    ]  # fmt: skip

    def joules(net: aw.Supernet, config: aw.WidthConfig) -> float:
        return 1.0

    vars(joules)["unit"] = "J"
    assert (named_cost(joules).name, named_cost(joules).unit) == ("joules", "J")
    assert named_cost(costs[0]) is costs[0]


@pytest.mark.parametrize(
    "value", [0, -1, float("nan"), float("inf"), "1", None, True, torch.ones(1) * float("nan"), 1j]
)
def test_what_is_no_cost_is_told(value) -> None:
    cost = NamedCost(name="mine", unit="J", function=lambda net, config: value)
    with pytest.raises(SearchError, match="cost 'mine' of config .* a cost must be a finite number above 0 of J"):
        cost(digits(), aw.WidthConfig({}))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.a(x))
        return self.c(self.b(y)) + y


def test_memory_is_that_of_what_is_alive() -> None:
    net = aw.Supernet(Branches(), torch.randn(3, 4))
    # With the input, y is kept for the sum; the most is alive when c runs: x, y, b(y) and c(...).
    assert activation_memory(net) == 4 * (4 + 16 + 32 + 16)
    assert activation_memory(net, {"b": 0.5}) == 4 * (4 + 16 + 16 + 16)
    half = aw.Supernet(Branches().bfloat16(), torch.randn(3, 4, dtype=torch.bfloat16))
    assert activation_memory(half) == 2 * (4 + 16 + 32 + 16)


def test_memory_falls_with_the_channels() -> None:
    net = digits()
    before = net.model.state_dict()["stem.conv.weight"].clone()
    found = [activation_memory(net, width) for width in (0.25, 0.5, 0.75, 1.0)]
    assert found == sorted(set(found))
    assert torch.equal(before, net.model.state_dict()["stem.conv.weight"])
    assert net.model.training


def test_a_latency_that_is_linear_is_found(tmp_path) -> None:
    net = digits()
    counts = {o.module: n for n, o in enumerate(net.analysis.operators)}

    def measure(net: aw.Supernet, config: aw.WidthConfig) -> float:
        units = net.analysis.blocks(config)
        return 0.3 + sum((1 + n) * 1e-6 * net.analysis.operators[n].count(units) for n in counts.values())

    seen = []
    model = fit_latency(net, measure, progress=lambda done, total: seen.append((done, total)))
    assert model.error < 1e-6
    assert seen[-1] == (64, 64)
    for width in (0.3, 0.8, 1.0):
        assert model(net, width) == pytest.approx(measure(net, net.config(width)), rel=1e-5)
    again = LatencyModel.from_json(model.to_json(tmp_path / "latency.json"))
    assert again(net, 0.6) == model(net, 0.6)
    assert named_cost(again).unit == "ms"
    assert (again.error, again.measured, again.held_out, again.about["threads"]) == (model.error, 48, 16, 1)


def test_the_error_is_that_of_configs_it_has_not_seen() -> None:
    net, times = digits(), []

    def noisy(net: aw.Supernet, config: aw.WidthConfig) -> float:
        times.append(float(torch.rand(())) + 1.0)
        return times[-1]

    model = fit_latency(net, noisy)
    assert 0.02 < model.error < 0.6
    assert model.error <= model.worst


@pytest.mark.slow
def test_real_latency_falls_with_the_width() -> None:
    """How near it comes is measured by `benchmarks/latency_model.py`, because machines are not quiet."""
    net = aw.Supernet(build_model("resnet18", num_classes=10, input_shape=(3, 32, 32)), torch.randn(4, 3, 32, 32))
    model = fit_latency(net, lambda net, config: latency(net, config, repeats=9), configs=24, held_out=4)
    times = [model(net, width) for width in (0.25, 0.5, 0.75, 1.0)]
    assert times == sorted(times)
    assert times[-1] > 1.5 * times[0]


@pytest.mark.slow
def test_every_width_is_compiled_or_told_that_it_cannot_be(monkeypatch) -> None:
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2)), torch.randn(1, 4))
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        with pytest.raises(AnywidthError, match="install a C"):
            aw.latency(net, 0.5, compiled=True)
        return
    compiled = []
    whole = torch._inductor.compile_fx.compile_fx
    monkeypatch.setattr(torch._inductor.compile_fx, "compile_fx", lambda *a, **o: compiled.append(1) or whole(*a, **o))
    widths = [0.25 + number / 16 for number in range(10)]  # more than torch.compile takes of one class
    assert all(aw.latency(net, width, repeats=2, compiled=True) > 0 for width in widths)
    assert len(compiled) == len(widths)


def test_a_compiler_that_fails_is_told(monkeypatch) -> None:
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2)), torch.randn(1, 4))

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    with pytest.raises(AnywidthError, match="no compiler here"):
        aw.latency(net, 0.5, compiled=True)


def test_what_does_not_fit_is_told(tmp_path) -> None:
    net = digits()
    with pytest.raises(SearchError, match="configs is 2"):
        fit_latency(net, configs=2)
    with pytest.raises(SearchError, match="must be above 0 ms"):
        fit_latency(net, lambda net, config: 0.0)
    model = fit_latency(net, lambda net, config: 1.0 + config["stem.conv"], configs=8, held_out=4)
    other = aw.Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    with pytest.raises(SearchError, match="belongs to another network, not to this Sequential"):
        model(other)
    file = model.to_json(tmp_path / "x.json")
    content = json.loads(file.read_text())
    for wrong in ({**content, "format": 9}, {"format": 1}, []):
        file.write_text(json.dumps(wrong))
        with pytest.raises(CheckpointError, match="latency model"):
            LatencyModel.from_json(file)
    with pytest.raises(CheckpointError, match="cannot read a latency model from"):
        LatencyModel.from_json(tmp_path / "missing.json")
