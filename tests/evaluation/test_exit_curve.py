"""The curve of early exits agrees with early exits, and with what kernels compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import anywidth as aw
from anywidth.core.errors import DataError, SettingsError, WidthError
from anywidth.cost import progressive_macs
from anywidth.evaluation import exit_curve


@pytest.fixture(scope="module")
def net() -> aw.Supernet:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU())
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)).eval()
    net = aw.Supernet(model, torch.randn(2, 3, 6, 6), nested=(0.25, 0.5, 0.75, 1.0), divisor=4)
    with torch.no_grad():
        net.model[-1].weight.mul_(20)  # so that confidences differ between samples and widths
    return net


def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [(3 * torch.randn(size, 3, 6, 6), torch.randint(4, (size,))) for size in (16, 16, 5)]


def test_macs_are_those_that_kernels_compute(net: aw.Supernet) -> None:
    runner, x, counted = net.progressive(), torch.randn(1, 3, 6, 6), []
    with FlopCounterMode(display=False) as counter:
        runner.start(x)
        counted.append(counter.get_total_flops() // 2)
        while runner.next_width is not None:
            runner.refine()
            counted.append(counter.get_total_flops() // 2)
    assert progressive_macs(net) == tuple(counted)


def test_rows_are_those_of_early_exits(net: aw.Supernet) -> None:
    curve = exit_curve(net, batches(), [0.6, 0.0, 0.8])
    assert [row.width for row in curve] == ["confidence 0.6", "confidence 0", "confidence 0.8"]
    costs = torch.tensor(progressive_macs(net), dtype=torch.float64)
    for row, confidence in zip(curve, (0.6, 0.0, 0.8), strict=True):
        classify, right, spent = net.progressive().exit_when(confidence=confidence), 0, 0.0
        for x, y in batches():
            answers = classify(x)
            right += int((answers.outputs.argmax(1) == y).sum())
            spent += float(costs[answers.widths].sum())
        assert row.score == pytest.approx(100 * right / 37)
        assert row.macs == round(spent / 37)
        assert row.params == aw.params(net)
    assert costs[0] == curve[1].macs < curve[0].macs < curve[2].macs < costs[-1]


def test_bad_input_is_refused(net: aw.Supernet) -> None:
    with pytest.raises(DataError, match="loader is empty"):
        exit_curve(net, [])
    with pytest.raises(SettingsError, match="is not a probability"):
        exit_curve(net, batches(), [0.5, 2.0])
    with pytest.raises(WidthError, match="not nested"):
        exit_curve(aw.Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4)), [])
