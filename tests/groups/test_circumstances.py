"""Forwards that branch on random numbers, on autocast, or on the gradient mode."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import AnalysisError

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))

ASKS: dict[str, Callable[[bool], bool]] = {
    "random": lambda training: training and random.random() < 0.5,
    "rare": lambda training: training and random.random() < 1e-6,
    "uniform": lambda training: training and random.uniform(0, 1) > 0.999999,
    "integer": lambda training: training and random.randrange(3) == 2,
    "numpy": lambda training: training and float(np.random.rand()) < 1e-6,
    "torch": lambda training: training and torch.rand(1).item() < 1e-6,
    "torch, bool": lambda training: training and bool(torch.rand([]) > 1 - 1e-6),
    "torch, integer": lambda training: training and int(torch.randint(0, 9, (1,))) == 8,
    "torch, method": lambda training: training and torch.empty(1).uniform_(1, 2).item() > 1.999999,
    "torch, normal": lambda training: training and torch.randn(()).item() > 5,
    "torch, bernoulli": lambda training: training and bool(torch.bernoulli(torch.tensor(1e-6))),
    "autocast": lambda training: torch.is_autocast_enabled(),
    "autocast of a device": lambda training: torch.is_autocast_enabled("cpu"),
    "autocast type": lambda training: training and torch.get_autocast_dtype("cpu") == torch.float16,
    "gradients": lambda training: torch.is_grad_enabled(),
    "no gradients": lambda training: not torch.is_grad_enabled(),
    "inference mode": lambda training: torch.is_inference_mode_enabled(),
    "evaluation": lambda training: not training and random.random() < 1e-6,
}


class Ties(nn.Module):
    """Adds the channels of one layer to those of the next in reverse, but only sometimes."""

    def __init__(self, asks: Callable[[bool], bool]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.asks = asks

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        g = self.b(h).relu()
        if self.asks(self.training):
            g = g + h.flip(1)
        return self.c(g)


@pytest.fixture(scope="module")
def always() -> aw.Supernet:
    """A network that always takes the branch; do not change it."""
    return aw.Supernet(Ties(lambda _: True), X)


@pytest.mark.parametrize("asks", ASKS)
def test_channels_that_a_rare_branch_ties_are_one_group(asks: str, always: aw.Supernet) -> None:
    state = random.getstate()
    net = aw.Supernet(Ties(ASKS[asks]), X)
    assert random.getstate() == state
    assert dict(net.config(0.5)) == {"a": 16}
    weight, second = net.model.a.weight, net.subnet(0.5).b.weight
    assert torch.equal(second, net.model.b.weight[-16:, :16])
    assert torch.equal(net.subnet(0.5).a.weight, weight[:16])
    assert net.analysis.narrows_like(always.analysis)


def test_autocast_is_as_before() -> None:
    asked = Ties(lambda _: torch.is_autocast_enabled())
    states = [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")]
    aw.Supernet(asked, X)
    assert [(d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")] == states
    with torch.autocast("cpu", dtype=torch.float16):
        aw.Supernet(asked, X)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.float16


def test_nothing_hangs_together_without_such_a_branch() -> None:
    net = aw.Supernet(Ties(lambda _: False), X)
    assert dict(net.config(0.5)) == {"a": 16, "b": 16}
    unrelated = aw.Supernet(Ties(lambda _: random.random() > 2), X)
    assert unrelated.analysis.narrows_like(net.analysis)


class Depth(nn.Module):
    """Stochastic depth written by hand."""

    def __init__(self, drop: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.c = nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Linear(32, 3)
        self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(2))
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        h = self.n(self.a(x)).relu()
        for block in self.blocks:
            if not self.training or random.random() >= self.drop:
                h = h + block(h).relu()
        return self.c(h)


@pytest.mark.parametrize("batch", [1, 4])
def test_stochastic_depth_by_hand_is_elastic(batch: int) -> None:
    net = aw.Supernet(Depth(0.9), X[:batch])
    assert net.elastic_share == 1
    net.model.train()
    for seed in range(6):
        random.seed(seed)
        aw.sandwich_step(net, X, torch.arange(4) % 3, widths=[1.0, 0.5, 0.25])


class Fails(nn.Module):
    """Computes something that cannot be captured, in one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        if random.random() < 1e-6:
            h = h * float(h.sum())
        return self.b(h)


def test_a_branch_that_cannot_be_captured_is_refused() -> None:
    with pytest.raises(AnalysisError, match=r"Fails takes another branch for other random numbers"):
        aw.Supernet(Fails(), X)


def test_random_functions_and_generators_are_as_before() -> None:
    analysed, refused = Depth(0.9), Fails()
    names = [(random, name) for name in ("random", "uniform")]
    names += [(np.random, name) for name in ("rand", "random", "uniform")]
    before = [getattr(module, name) for module, name in names]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    aw.Supernet(analysed, X)
    with pytest.raises(AnalysisError):
        aw.Supernet(refused, X)
    assert [getattr(module, name) for module, name in names] == before
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
