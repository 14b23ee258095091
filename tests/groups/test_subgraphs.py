"""Regions under no_grad, autocast and vmap are analysed like the rest; branches are not."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.inputs import normalise_inputs
from anywidth.cost import uncounted_operators
from anywidth.groups.capture import capture
from proofs import assert_close


class Regions(nn.Module):
    """Two layers in a region of some kind, and a head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.o = nn.Linear(8, 24), nn.Linear(24, 40), nn.Linear(40, 3)

    def inner(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu()).relu()

    def region(self, x: Tensor) -> Tensor:
        if self.kind == "no_grad":
            with torch.no_grad():
                return self.inner(x)
        if self.kind == "autocast off":
            with torch.autocast("cpu", enabled=False):
                return self.inner(x)
        if self.kind == "autocast on":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(x).type_as(x)
        if self.kind == "nested":
            with torch.no_grad():
                hidden = self.a(x).relu()
                with torch.autocast("cpu", enabled=False):
                    hidden, rest = self.b(hidden), hidden
                return hidden.relu() + 0 * rest.mean()
        if self.kind == "grad again":
            with torch.no_grad():
                hidden = self.a(x).relu()
                with torch.enable_grad():
                    return self.b(hidden).relu()
        if self.kind == "checkpoint":
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)
        if self.kind == "vmap":
            return torch.vmap(self.inner)(x)
        if self.kind == "vmap second":
            return torch.vmap(self.inner, in_dims=1)(x.T)
        return self.inner(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.region(x))


KINDS = ["no_grad", "autocast off", "autocast on", "nested", "grad again", "checkpoint", "vmap", "vmap second"]


X = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def whole() -> aw.Supernet:
    """The network without a region."""
    return aw.Supernet(Regions("plain").double().eval(), X, divisor=1)


@pytest.mark.parametrize("kind", KINDS)
def test_regions_are_elastic_and_counted(kind: str, whole: aw.Supernet) -> None:
    x, plain = X, copy.deepcopy(whole)
    net = aw.Supernet(Regions(kind).double().eval(), x, divisor=1)
    plain.model.load_state_dict(net.model.state_dict())
    assert [(g.name, g.channels, g.frozen) for g in net.groups] == [
        (g.name, g.channels, g.frozen) for g in plain.groups
    ]
    assert net.elastic_share == 1
    for width in (0.25, 0.5, 1.0):
        active = net.config(width)
        a, b = active["a"], active["b"]
        assert aw.macs(net, width) == 8 * a + a * b + b * 3
        assert_close(net.subnet(width)(x), plain.subnet(width)(x))
        assert_close(net.extract(width)(x), plain.subnet(width)(x))


class Ensemble(nn.Module):
    """Several layers in one tensor, every sample through each of them by vmap."""

    def __init__(self) -> None:
        super().__init__()
        self.weights, self.o = nn.Parameter(torch.randn(5, 24, 8)), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.vmap(lambda weight: x @ weight.T)(self.weights)
        return self.o(hidden.relu().mean(0))


def test_layers_mapped_over_are_counted_each() -> None:
    net = aw.Supernet(Ensemble(), torch.randn(4, 8), divisor=1)
    for width in (0.5, 1.0):
        kept = net.extract(width).weights.shape[1]
        assert aw.macs(net, width) == 5 * 8 * kept + kept * 3
    assert net.elastic_share == 1


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(8, 24), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        return self.o(torch.cond(hidden.sum() > 0, lambda h: self.b(h), lambda h: h.relu(), (hidden,)))


@pytest.mark.filterwarnings("ignore:only .* of the MACs", "ignore:Running a compiled function")
def test_branches_on_values_are_frozen_by_name() -> None:
    net = aw.Supernet(Branch(), torch.randn(4, 8))
    reasons = {group.name: group.frozen for group in net.groups}
    assert reasons["a"] == "enters torch.cond in the root module"
    assert "cond" in uncounted_operators(net)


def test_no_wrapper_is_left_in_the_graph() -> None:
    for kind in KINDS:
        program = capture(Regions(kind), normalise_inputs(torch.randn(4, 8)), training=False).program
        names = {str(node.target) for node in program.graph.nodes}
        assert not any("wrap_with" in name or "batch_dim" in name or "submod" in name for name in names)
        program.graph.lint()


class Reads(nn.Module):
    """Takes the last channel of hidden tensors for their shape only, as encoders of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(8, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        first = hidden[:, -1]
        return self.o(hidden) + torch.zeros(first.shape[0], 3)


def test_views_that_nobody_reads_freeze_nothing() -> None:
    assert dict(aw.Supernet(Reads(), torch.randn(4, 8)).config(0.5)) == {"a": 16}
