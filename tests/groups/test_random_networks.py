"""Random small networks at random configs do what the full network with silenced readers does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.groups.labels import varying
from anywidth.groups.masked import masks_of, run_masked
from anywidth.groups.propagate import propagate
from anywidth.groups.solve import solve
from anywidth.groups.trace import capture, double_batch, named_tensors, normalise_inputs
from proofs import assert_close


class Block(nn.Module):
    """One random block that keeps the number of channels."""

    def __init__(self, kind: str, channels: int, inner: int) -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(channels, inner, 1)
        self.norm = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.last = nn.Conv2d(inner, channels, 1)
        self.joined = nn.Conv2d(channels + inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.norm(self.first(x)))
        if self.kind == "depthwise":
            inner = self.depthwise(inner)
        if self.kind == "concat":
            return self.joined(torch.cat([x, inner], 1))
        if self.kind == "gate":
            return x * torch.sigmoid(self.last(inner.mean((2, 3), keepdim=True)))
        if self.kind == "shuffle" and x.shape[1] % 2 == 0:
            b, c, h, w = x.shape
            x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
            return x + self.last(inner)
        return x + self.last(inner) if self.kind in ("residual", "depthwise", "shuffle") else self.last(inner)


class Network(nn.Module):
    """A stem, random blocks, and a linear layer on pooled or flattened features."""

    def __init__(self, kinds: list[str], channels: int, inner: int, flatten: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(kind, channels, inner) for kind in kinds))
        self.flatten = flatten
        self.head = nn.Linear(channels * (16 if flatten else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(x.flatten(1) if self.flatten else x.mean((2, 3)))


KINDS = st.lists(
    st.sampled_from(["chain", "residual", "depthwise", "concat", "gate", "shuffle"]), min_size=1, max_size=4
)


def check(kinds: list[str], channels: int, inner: int, flatten: bool, divisor: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = Network(kinds, channels, inner, flatten).double().eval()
    net = aw.Supernet(model, torch.randn(2, 2, 4, 4).double(), divisor=divisor)
    reasons = {group.frozen for group in net.groups if group.frozen}
    assert not [reason for reason in reasons if "narrowed network" in reason], reasons
    rng = np.random.default_rng(seed)
    channels_of = {g.name: int(rng.integers(1, g.units + 1)) * g.unit for g in net.analysis.elastic}
    config = net.config(aw.WidthConfig(channels_of))
    share_statistics(net, [config])
    x = torch.randn(3, 2, 4, 4).double()
    with torch.no_grad():
        got = net.subnet(config).eval()(x)
        assert_close(net.extract(config).eval()(x), got, 1e-12)
    # An independent count of what the extracted network holds.
    dense = net.extract(config)
    assert aw.params(net, config) == sum(p.numel() for p in dense.parameters())
    inputs = double_batch(normalise_inputs(x))
    graph = capture(model, inputs, training=False)
    found = propagate(model, [capture(model, inputs, training=True), graph])
    analysis = solve(model, found)
    units = analysis.units(dict(config))
    kept = np.ones(len(found.labels), bool)
    for name, vectors in found.dims.items():
        for vector, axis in zip(vectors, analysis.axes.get(name, ()), strict=False):
            if vector is not None and axis is not None:
                kept[found.labels.find(vector)] &= axis.rank < units[axis.group]
    facets = {n: [found.labels.find(a) for a in arrays if varying(a)] for n, arrays in found.facets.items()}
    with torch.no_grad():
        wanted = run_masked(graph, named_tensors(model), inputs, masks_of(facets, kept))
    assert_close(got, wanted)


@settings(derandomize=True, max_examples=12, deadline=None)
@given(KINDS, st.integers(2, 13), st.integers(2, 13), st.booleans(), st.integers(1, 8), st.integers(0, 99))
def test_random_networks(kinds: list[str], channels: int, inner: int, flatten: bool, divisor: int, seed: int) -> None:
    check(kinds, channels, inner, flatten, divisor, seed)


@pytest.mark.slow
@settings(derandomize=True, max_examples=150, deadline=None)
@given(KINDS, st.integers(2, 31), st.integers(2, 31), st.booleans(), st.integers(1, 8), st.integers(0, 9999))
def test_many_random_networks(
    kinds: list[str], channels: int, inner: int, flatten: bool, divisor: int, seed: int
) -> None:
    check(kinds, channels, inner, flatten, divisor, seed)
