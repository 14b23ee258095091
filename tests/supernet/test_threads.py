"""Widths side by side in threads."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from weakref import ref

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


def test_gradients_of_one_subnet_in_a_thread_can_be_asked_for() -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)).double()
    x = torch.randn(8, 16, dtype=torch.float64)
    subnet = aw.Supernet(model, x).subnet(0.5)

    def ask(_: int) -> list[torch.Tensor]:
        return list(torch.autograd.grad(subnet(x).square().mean(), list(subnet.parameters())))

    wanted = ask(0)
    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(ask, range(12)):
            torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_subnet_that_was_used_in_threads_is_let_go_of() -> None:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    net = aw.Supernet(model, torch.randn(2, 16), cache_size=1)
    leaf = ref(net.subnet(0.5)[0].weight)  # type: ignore[arg-type]

    def run(_: int) -> None:
        net.subnet(0.5)(torch.randn(2, 16)).sum().backward()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(4)))
    assert leaf() is not None
    net.subnet(0.25)
    gc.collect()
    assert leaf() is None


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
