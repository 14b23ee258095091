"""Subnets of small random networks, drawn by hypothesis."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from proofs import assert_close, assert_same_layers, call, kept, masked, outputs, slicing_gradients, weighted
from zoo import Case

KINDS = ("conv", "residual", "concat", "dense", "depthwise", "grouped", "shuffle", "halves", "excite", "scale", "sum")


@dataclass(frozen=True)
class Piece:
    """One block: its kind, a number of channels, a small number (groups, multiplier, kernel) and whether it norms."""

    kind: str
    channels: int
    number: int
    norm: bool


def _conv(inputs: int, outputs: int, norm: bool, kernel: int = 3, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=not norm)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU()) if norm else nn.Sequential(conv, nn.ELU())


class Block(nn.Module):
    """A block of a random network; `outputs` says how many channels come out."""

    def __init__(self, piece: Piece, inputs: int) -> None:
        super().__init__()
        self.kind, self.groups, self.outputs = piece.kind, 1, inputs
        conv = partial(_conv, norm=piece.norm)
        kernel = 1 if piece.number % 2 else 3
        if piece.kind in ("conv", "concat", "dense", "sum"):
            self.a = conv(inputs, piece.channels, kernel=kernel)
            self.outputs = piece.channels
        if piece.kind == "concat":
            self.b = conv(inputs, piece.number + 1)
            self.outputs = piece.channels + piece.number + 1
        elif piece.kind == "dense":
            self.outputs = inputs + piece.channels
        elif piece.kind == "sum":
            self.b = conv(inputs, piece.channels)
        elif piece.kind == "residual":
            self.a, self.b = conv(inputs, piece.channels), _conv(piece.channels, inputs, piece.norm, kernel)
        elif piece.kind == "depthwise":
            self.outputs = inputs * (1 + piece.number % 3)
            self.a = conv(inputs, self.outputs, groups=inputs)
        elif piece.kind == "grouped":
            self.groups = max(g for g in range(1, piece.number + 2) if inputs % g == 0)
            self.outputs = self.groups * (1 + piece.channels // self.groups)
            self.a = conv(inputs, self.outputs, groups=self.groups)
        elif piece.kind == "shuffle":
            self.groups = max(g for g in range(1, piece.number + 2) if inputs % g == 0)
        elif piece.kind == "halves" and inputs % 2 == 0:
            self.a = conv(inputs // 2, inputs // 2, kernel=kernel)
        elif piece.kind == "excite":
            self.a, self.b = nn.Conv2d(inputs, piece.number + 1, 1), nn.Conv2d(piece.number + 1, inputs, 1)
        elif piece.kind == "scale":
            self.gain = nn.Parameter(torch.rand(inputs, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "conv" | "depthwise" | "grouped":
                return self.a(x)
            case "residual":
                return F.relu(x + self.b(self.a(x)))
            case "concat":
                return torch.cat([self.a(x), self.b(x)], 1)
            case "dense":
                return torch.cat([x, self.a(x)], 1)
            case "sum":
                return self.a(x) * torch.sigmoid(self.b(x))
            case "shuffle":
                batch, _, height, width = x.shape
                x = x.view(batch, self.groups, -1, height, width).transpose(1, 2)
                return x.reshape(batch, -1, height, width)
            case "halves" if self.outputs % 2 == 0:
                left, right = x.chunk(2, 1)
                return torch.cat([right, self.a(left)], 1)
            case "excite":
                return x * torch.sigmoid(self.b(F.relu(self.a(x.mean((2, 3), keepdim=True)))))
            case "scale":
                return x * self.gain
        return x


class Network(nn.Module):
    """A stem, random blocks, and a head that pools or flattens."""

    def __init__(self, pieces: list[Piece], stem: int, flat: bool) -> None:
        super().__init__()
        self.stem = _conv(3, stem, norm=True)
        self.blocks = nn.ModuleList()
        channels = stem
        for piece in pieces:
            self.blocks.append(Block(piece, channels))
            channels = self.blocks[-1].outputs
        self.flat = flat
        self.head = nn.Linear(channels * 16 if flat else channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.flatten(1) if self.flat else x.mean((2, 3)))


pieces = st.builds(
    Piece, kind=st.sampled_from(KINDS), channels=st.integers(2, 17), number=st.integers(0, 5), norm=st.booleans()
)
networks = st.builds(
    Network, pieces=st.lists(pieces, min_size=1, max_size=5), stem=st.integers(2, 16), flat=st.booleans()
)


def check(model: Network, divisor: int, min_width: float, draw: st.DataObject) -> None:
    torch.manual_seed(0)
    case = Case(name="random", build=lambda: model, inputs=lambda: torch.randn(2, 3, 4, 4, dtype=torch.float64))
    model = case.model()  # type: ignore[assignment]
    x = case.example(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        net = aw.Supernet(model, x, divisor=divisor, min_width=min_width)
    assert not net.analysis.unknown
    if all(block.kind not in ("shuffle", "halves") for block in model.blocks):
        assert not [group.frozen for group in net.groups if "narrowed" in (group.frozen or "")]
    chosen = [net.config(draw.draw(st.floats(min_width, 1.0)))]
    elastic = net.analysis.elastic
    chosen.append(aw.WidthConfig({g.name: draw.draw(st.integers(1, g.blocks)) * g.block_size for g in elastic}))
    for config in chosen:
        share_statistics(net, [config])
        sub, full, dense = net.subnet(config), masked(net, config, case), net.extract(config)
        with torch.no_grad():
            got = call(sub, x)
            assert_close(got, call(full, x))
            assert torch.equal(got, call(dense, x))
        assert_same_layers(net, config, full, sub, x)
        assert aw.params(net, config) == sum(p.numel() for p in dense.parameters())
        for training in (False, True):
            model.zero_grad(set_to_none=True)
            got = call(sub.train(training), x)
            weights = [torch.randn(out.shape, dtype=torch.float64) for out in outputs(got)]
            weighted(got, weights).backward()
            _, gradients = slicing_gradients(net, config, dense.train(training), x, weights)
            for name, parameter in model.named_parameters():
                ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                assert_close(ours, gradients[name], 1e-6)
                assert all(len(positions) for positions in kept(net, config, name))  # no group loses all its channels
        sub.eval()


_ARGUMENTS = {"model": networks, "divisor": st.integers(1, 8), "min_width": st.floats(0.05, 0.9), "draw": st.data()}
_QUIET = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@settings(_QUIET, max_examples=4)
@given(**_ARGUMENTS)
def test_random_networks(model: Network, divisor: int, min_width: float, draw: st.DataObject) -> None:
    check(model, divisor, min_width, draw)


@pytest.mark.slow
@settings(_QUIET, max_examples=40)
@given(**_ARGUMENTS)
def test_many_random_networks(model: Network, divisor: int, min_width: float, draw: st.DataObject) -> None:
    check(model, divisor, min_width, draw)


def test_pieces_of_different_sizes_are_frozen() -> None:
    """The groups of two grouped convolutions and an excitation meet, so that channels come in uneven pieces."""
    pieces = [
        Piece(kind="grouped", channels=13, number=4, norm=False),
        Piece(kind="dense", channels=11, number=2, norm=True),
        Piece(kind="grouped", channels=13, number=4, norm=False),
        Piece(kind="excite", channels=13, number=4, norm=False),
        Piece(kind="dense", channels=6, number=2, norm=True),
    ]
    x = torch.randn(4, 3, 4, 4)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        net = aw.Supernet(Network(pieces=pieces, stem=15, flat=True).eval(), x, divisor=1)
    assert any("pieces of different sizes" in str(group.frozen) for group in net.groups)
    share_statistics(net, [0.5])
    torch.testing.assert_close(net.subnet(0.5)(x), net.extract(0.5)(x))
