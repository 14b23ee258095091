"""Widths side by side in threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
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


@pytest.mark.parametrize("widths", [(0.3, 0.5, 0.7, 0.9), (0.5, 0.5, 0.5), (0.5, 1.0, 0.75, 1.0)])
def test_backward_passes_in_threads_add_up(widths: tuple[float, ...]) -> None:
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)).double()
    x = torch.randn(4, 64, dtype=torch.float64)
    net = aw.Supernet(model, x)
    subnets = [net.subnet(width) for width in widths]

    def run(subnet: nn.Module) -> None:
        subnet(x).square().mean().backward()

    for subnet in subnets:
        run(subnet)
    wanted = [parameter.grad for parameter in model.parameters()]
    for _ in range(10):
        model.zero_grad(set_to_none=True)
        with ThreadPoolExecutor(len(subnets)) as pool:
            list(pool.map(run, subnets))
        for parameter, gradient in zip(model.parameters(), wanted, strict=True):
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


def test_steps_in_threads_add_up_and_leave_the_weights_in_place() -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).double()
    x, y = torch.randn(8, 16, dtype=torch.float64), torch.randint(4, (8,))
    net = aw.Supernet(model, x)

    def step(_: int) -> None:
        aw.sandwich_step(net, x, y, widths=[1.0, 0.5, 0.75], distillation=None)

    step(0)
    single = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    places = [parameter.data_ptr() for parameter in net.subnet(0.5).parameters()]
    model.zero_grad()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(step, range(8)))
    for parameter, gradient in zip(model.parameters(), single, strict=True):
        torch.testing.assert_close(parameter.grad, 8 * gradient, rtol=1e-10, atol=1e-12)
    assert places == [parameter.data_ptr() for parameter in net.subnet(0.5).parameters()]
