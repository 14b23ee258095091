"""Widths side by side in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

import anywidth as aw


def test_threads_get_what_they_get_alone() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(512, 7)
    )
    net = aw.Supernet(model, torch.randn(1, 3, 8, 8))
    x = torch.randn(16, 3, 8, 8)
    widths = [0.25, 0.5, 0.75, 1.0]
    aw.calibrate(net, [x], widths)
    model.eval()
    with torch.no_grad():
        alone = {width: net.subnet(width).eval()(x) for width in widths}

    def forward(width: float) -> bool:
        with torch.no_grad():
            return all(torch.equal(net.subnet(width)(x), alone[width]) for _ in range(20))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(forward, widths * 3))
