"""Counts agree with a second counter, and with the papers' tables."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import anywidth as aw
from anywidth.cost import uncounted_operators
from anywidth.models import build_model


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        *(
            pytest.param(f"torchvision/{name}", marks=pytest.mark.slow)
            for name in ("shufflenet_v2_x0_5", "efficientnet_b0")
        ),
    ],
)
def test_macs_equal_torchs_own_counter(name: str) -> None:
    side, colours = (8, 1) if name == "digits" else (32, 3)
    net = aw.Supernet(
        build_model(name, num_classes=10, input_shape=(colours, side, side)), torch.randn(1, colours, side, side)
    )
    for width in (0.25, 0.6, 1.0):
        dense = net.extract(width, calibrated=False).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            dense(torch.randn(1, colours, side, side))
        assert aw.macs(net, width) == counter.get_total_flops() // 2
        assert aw.params(net, width) == sum(p.numel() for p in dense.parameters())
    assert "aten.batch_norm" in uncounted_operators(net)


V1 = [568, 543, 517, 490, 466, 443, 421, 389, 366, 345, 325, 306, 287, 267, 249, 232, 217, 201, 177, 162, 149, 136,
      124, 114, 100, 89, 80, 71, 64, 48, 41]  # fmt: skip
V2 = [300, 299, 284, 274, 269, 268, 254, 235, 222, 213, 209, 185, 173, 165, 161, 161, 151, 150, 106, 100, 97, 96, 88,
      88, 80, 80, 59]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "table"), [("mobilenet_v1", V1), pytest.param("mobilenet_v2", V2, marks=pytest.mark.slow)]
)
def test_supernets_have_the_published_macs_at_every_width(name: str, table: list[int]) -> None:
    model = build_model(name, num_classes=1000, input_shape=(3, 224, 224))
    smallest = 0.25 if name == "mobilenet_v1" else 0.35
    net = aw.Supernet(model, torch.randn(1, 3, 224, 224), min_width=smallest, frozen=type(model).frozen)
    widths = [round(1.0 - 0.025 * i, 3) for i in range(len(table))]
    assert [aw.macs(net, width, pooling=True) // 10**6 for width in widths] == table
    assert all(aw.params(net, wide) >= aw.params(net, narrow) for wide, narrow in pairwise(widths))
