"""Forwards that take another path in training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import AnalysisError

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


class Heads(nn.Module):
    """A head of the same shape for each mode."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.a, self.head, self.ema = nn.Linear(4, 32), nn.Linear(32, 10), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        head = self.head if self.training else self.ema
        h = self.a(x).relu()
        return head(h) if self.kind == "module" else F.linear(h, weight=head.weight, bias=head.bias)


@pytest.mark.parametrize("kind", ["module", "function"])
def test_parameters_of_both_modes_are_narrowed(kind) -> None:
    model = Heads(kind)
    net = aw.Supernet(model, X)
    assert dict(net.config(0.5)) == {"a": 16}
    for training in (True, False):
        head = model.head if training else model.ema
        expected = F.linear(model.a(X).relu()[:, :16], head.weight[:, :16], head.bias)
        torch.testing.assert_close(net.subnet(0.5).train(training)(X), expected)
    aw.sandwich_step(aw.Supernet(model.train(), X), X, torch.tensor([0, 1]))


def test_one_path_is_captured_once() -> None:
    from anywidth.core.inputs import normalise_inputs
    from anywidth.groups.probe import probe

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.0), nn.Linear(8, 2))
    assert not probe(model, normalise_inputs(X)).modes_differ
    assert probe(Heads("module"), normalise_inputs(X)).modes_differ


class Sizes(nn.Module):
    """A layer for small batches and one for large batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.small, self.large = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.o = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.small if len(x) < 4 else self.large)(self.a(x)).relu())


def test_a_branch_that_the_example_does_not_take_is_named() -> None:
    model = Sizes()
    net = aw.Supernet(model, X)
    hidden = F.linear(model.a(X)[:, :16], model.small.weight[:16, :16], model.small.bias[:16]).relu()
    torch.testing.assert_close(net.subnet(0.5)(X), F.linear(hidden, model.o.weight[:, :16], model.o.bias))
    with pytest.raises(AnalysisError, match="module 'large'"):
        net.subnet(0.5)(torch.cat([X, X]))
    net.model(torch.cat([X, X]))
    with pytest.warns(UserWarning, match="0% of the MACs"):
        frozen = aw.Supernet(Sizes(), X, frozen=["a", "small"])
    torch.testing.assert_close(frozen.subnet(0.5)(torch.cat([X, X])), frozen.model(torch.cat([X, X])))
