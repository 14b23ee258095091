"""Forwards that keep what they made from weights: subnets compute it from the weights of the day."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


class Caching(nn.Module):
    """Normalises its weights, in evaluation only once."""

    def __init__(self, where: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o, self.where = nn.Linear(6, 32), nn.Linear(32, 4), where
        self.kept: Tensor | dict[str, Tensor] | None = {} if where == "dict" else None
        if where == "buffer":
            del self.kept
            self.register_buffer("kept", None)

    def train(self, mode: bool = True) -> Caching:
        if mode:
            self.kept = {} if self.where == "dict" else None
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.linear(x, self.weight(), self.a.bias).relu())

    def weight(self) -> Tensor:
        if self.training:
            return F.normalize(self.a.weight)
        if self.where == "dict":
            assert isinstance(self.kept, dict)
            if "weight" not in self.kept:
                self.kept["weight"] = F.normalize(self.a.weight)
            return self.kept["weight"]
        if self.kept is None:
            self.kept = F.normalize(self.a.weight)
        assert isinstance(self.kept, Tensor)
        return self.kept


def expected(model: Caching, channels: int) -> Tensor:
    weight = F.normalize(model.a.weight[:channels])
    return F.linear(F.linear(X, weight, model.a.bias[:channels]).relu(), model.o.weight[:, :channels], model.o.bias)


@pytest.mark.parametrize("where", ["attribute", "dict", "buffer"])
@torch.no_grad()
def test_subnets_follow_weights(where: str) -> None:
    model = Caching(where)
    net = aw.Supernet(model, X)
    assert net.analysis.caches_weights
    held = net.subnet(0.5).eval()
    torch.testing.assert_close(held(X), expected(model, 16))
    for write in (lambda w: w.mul_(torch.rand(32, 1)), lambda w: w.data.copy_(torch.randn(32, 6))):
        write(model.a.weight)
        for subnet in (held, net.subnet(0.5).eval(), net.extract(0.5).eval()):
            torch.testing.assert_close(subnet(X), expected(model, 16))


def test_caches_of_positions_are_kept() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Linear(6, 32), nn.Linear(32, 4)
            self.grid: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.grid is None or self.grid.shape[0] != x.shape[0]:
                self.grid = torch.linspace(0, 1, x.shape[0])
            return self.o(self.a(x).relu()) + self.grid[:, None]

    net = aw.Supernet(Positions(), X)
    assert not net.analysis.caches_weights
    subnet = net.subnet(0.5).eval()
    subnet(X)
    grid = subnet.grid
    subnet(X)
    assert subnet.grid is grid
