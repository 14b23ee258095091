"""MACs and parameters of a width, against counting the extracted network."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import anywidth as aw
from anywidth.core.inputs import normalise_inputs
from anywidth.cost import uncounted_operators
from proofs import call, configs
from zoo import Case, cases, find

SupernetOf = Callable[[Case], aw.Supernet]


def counted(model: nn.Module, inputs: Any) -> int:
    """MACs per sample by torch's own counter."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(model, inputs)
    flops, rest = divmod(counter.get_total_flops(), 2 * len(normalise_inputs(inputs).tensors()[0]))
    assert rest == 0
    return flops


@pytest.mark.parametrize("case", cases(few=True))
def test_counts_equal_those_of_the_extracted_network(case: Case, supernet_of: SupernetOf) -> None:
    net = supernet_of(case)
    for config in (*configs(net), net.config(1.0)):
        dense = net.extract(config, calibrated=False).eval()
        assert aw.macs(net, config) == counted(dense, case.example())
        assert aw.params(net, config) == sum(parameter.numel() for parameter in dense.parameters())


def test_counts_are_per_sample_whatever_the_batch() -> None:
    counts = set()
    for batch in (1, 2, 7):
        net = aw.Supernet(find("residual").build(), torch.randn(batch, 3, 8, 8))
        counts.add((aw.macs(net), aw.macs(net, 0.5), aw.macs(net, 0.5, pooling=True)))
    assert len(counts) == 1


def test_pooling_counts_what_enters_an_average() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
    net = aw.Supernet(model, torch.randn(1, 3, 8, 8))
    assert aw.macs(net) == 3 * 16 * 64 + 16 * 4
    assert aw.macs(net, pooling=True) == aw.macs(net) + 16 * 64
    assert aw.macs(net, 0.5) == 3 * 8 * 64 + 8 * 4
    assert aw.macs(net, 0.5, pooling=True) == aw.macs(net, 0.5) + 8 * 64


def test_counting_runs_and_changes_nothing(supernet_of: SupernetOf) -> None:
    net = supernet_of(find("inverted residuals"))
    before = [parameter._version for parameter in net.model.parameters()]
    calls: list[int] = []
    with net.model.register_forward_pre_hook(lambda *_: calls.append(1)):
        aw.macs(net, 0.5)
        aw.params(net, 0.5)
    assert not calls
    assert not net._subnets.kept
    assert [parameter._version for parameter in net.model.parameters()] == before


def test_uncounted_operators_are_listed(supernet_of: SupernetOf) -> None:
    listed = uncounted_operators(supernet_of(find("residual")))
    assert listed["aten.batch_norm"] == 3
    assert "aten.conv2d" not in listed
    assert "aten.linear" not in listed


def test_narrower_costs_no_more(supernet_of: SupernetOf) -> None:
    net = supernet_of(find("inverted residuals"))
    widths = [0.25 + 0.05 * i for i in range(16)]
    for count in (aw.macs, aw.params):
        found = [count(net, width) for width in widths]
        assert found == sorted(found)
        assert found[0] < found[-1] / 4
    assert aw.macs(net, 1) == aw.macs(net)
    assert aw.params(net) == sum(parameter.numel() for parameter in net.model.parameters())


def test_latency_is_the_median_in_milliseconds_and_leaves_no_trace(
    supernet_of: SupernetOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = supernet_of(find("residual"))
    now = 0.0

    def tick(module: nn.Module, *_: object) -> None:
        nonlocal now
        now += 1e-6 * module.weight.numel()  # as if every weight took a microsecond

    clock = SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr(sys.modules["anywidth.cost.latency"], "time", clock)
    hooks = [module.register_forward_hook(tick) for module in net.model.modules() if isinstance(module, nn.Conv2d)]
    before = net.model.head.weight.data_ptr(), net.model.training
    for width in (1.0, 0.25):
        convs = [module for module in net.extract(width, calibrated=False).modules() if isinstance(module, nn.Conv2d)]
        wanted = sum(module.weight.numel() for module in convs) / 1000
        assert aw.latency(net, width, repeats=5, warmup=1) == pytest.approx(wanted)
    assert (net.model.head.weight.data_ptr(), net.model.training) == before
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("count", [aw.macs, aw.params, aw.latency])
def test_widths_are_checked(count: Callable[..., float], supernet_of: SupernetOf) -> None:
    with pytest.raises(aw.AnywidthError, match=r"\[0.25, 1\]"):
        count(supernet_of(find("residual")), 0.1)


def test_attention_is_counted() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(12, 12) for _ in range(3))
            self.out = nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            scores = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(-1)
            return self.out(scores @ self.value(x))

    net = aw.Supernet(Attention(), torch.randn(2, 9, 12), divisor=1)
    for width in (0.25, 0.5, 1.0):
        dense = net.extract(width)
        assert aw.macs(net, width) == counted(dense, torch.randn(2, 9, 12))
