"""Subnets of random networks that cut, move and join channels by their number, drawn by hypothesis."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import anywidth as aw
from proofs import kept, outputs


def _half(h: Tensor) -> int:
    return h.shape[1] // 2


def _interleaved(h: Tensor) -> Tensor:
    k = _half(h)
    return torch.cat([torch.stack([h[:, :k], h[:, k : 2 * k]], 2).flatten(1, 2), h[:, 2 * k :]], 1)


def _thirds(h: Tensor, *order: int) -> Tensor:
    k = h.shape[1] // 3
    parts = [h[:, :k], h[:, k : 2 * k], h[:, 2 * k :]]
    return torch.cat([parts[i] for i in order], 1)


def _first(h: Tensor, change: Callable[[Tensor], Tensor], k: int) -> Tensor:
    return torch.cat([change(h[:, :k]), h[:, k:]], 1)


def _written(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, : _half(h)] *= 3
    return h


def _unrolled(h: Tensor) -> Tensor:
    state = torch.zeros_like(h[:, : _half(h)])
    for step in range(2):
        state = torch.tanh(state + (step + 1) * h[:, : _half(h)])
    return torch.cat([state, h], 1)


def _scatter(h: Tensor) -> Tensor:
    positions = torch.arange(h.shape[1] - 1, -1, -1)
    return h[:, positions]


MIXES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda h: h,
    "swapped halves": lambda h: torch.cat([h[:, _half(h) :], h[:, : _half(h)]], 1),
    "swapped chunks": lambda h: torch.cat(h.chunk(2, 1)[::-1], 1),
    "rotated thirds": lambda h: _thirds(h, 1, 2, 0),
    "outer thirds": lambda h: _thirds(h, 2, 1, 0),
    "chunks of three": lambda h: torch.cat(h.chunk(3, 1)[::-1], 1),
    "tensor_split": lambda h: torch.cat(h.tensor_split(3, 1)[::-1], 1),
    "split by size": lambda h: torch.cat(h.split(max(1, h.shape[1] // 3), 1)[::-1], 1),
    "split at five": lambda h: torch.cat(h.split([5, h.shape[1] - 5], 1)[::-1], 1),
    "hsplit": lambda h: torch.cat(torch.hsplit(h, [3, 7])[::-1], 1),
    "reversed": lambda h: h.flip(1),
    "rolled": lambda h: h.roll(1, 1),
    "rolled by half": lambda h: h.roll(_half(h), 1),
    "rolled without dimension": lambda h: h.roll(3),
    "interleaved": _interleaved,
    "even and odd": lambda h: torch.cat([h[:, ::2], h[:, 1::2]], 1),
    "every third": lambda h: h[:, ::3],
    "from one": lambda h: h[:, 1:],
    "to the last": lambda h: h[:, :-1],
    "last quarter": lambda h: h[:, -(h.shape[1] // 4) :],
    "first half": lambda h: h[:, : _half(h)],
    "product of halves": lambda h: h[:, : _half(h)] * h[:, _half(h) : 2 * _half(h)],
    "gated": lambda h: F.glu(h[:, : 2 * _half(h)], 1),
    "first quarter changed": lambda h: _first(h, torch.tanh, h.shape[1] // 4),
    "first three changed": lambda h: _first(h, lambda x: 3 * x, 3),
    "quarter rolled": lambda h: _first(h, lambda x: x.roll(1, 2), h.shape[1] // 4),
    "written in place": _written,
    "unrolled": _unrolled,
    "looked up": _scatter,
    "branch on size": lambda h: h.flip(1) if h.shape[1] > 9 else h,
    "branch on parity": lambda h: h.flip(1) if h.shape[1] % 2 else 2 * h,
    "divided by size": lambda h: h / h.shape[1],
    "groups": lambda h: h.reshape(len(h), 2, -1, h.shape[2]).transpose(1, 2).flatten(1, 2),
    "summed": lambda h: h * h.sum(1, keepdim=True),
    "padded": lambda h: F.pad(h, (0, 0, 2, 0)),
    "repeated": lambda h: torch.cat([h, h], 1),
    "pooled over channels": lambda h: F.max_pool1d(h.transpose(1, 2), 2).transpose(1, 2),
    "transposed": lambda h: h[:, :6].transpose(1, 2).reshape(len(h), 6, -1),
}

ENDS: dict[str, Callable[[Tensor], Any]] = {
    "none": lambda y: y,
    "sigmoid": lambda y: torch.sigmoid(100 * y),
    "tanh": lambda y: torch.tanh(100 * y),
    "softmax": lambda y: (100 * y).softmax(-1),
    "clamp": lambda y: y.clamp(-1e-3, 1e-3),
    "sign": torch.sign,
    "argmax": lambda y: y.argmax(-1),
    "top-k": lambda y: y.topk(2, -1).indices,
    "boolean": lambda y: y > 0,
    "rounded": lambda y: (y / 1e3).round().long(),
    "complex": lambda y: torch.complex(y, -y),
    "log": lambda y: y.log(),
    "zero": lambda y: 0 * y,
    "mixed scales": lambda y: torch.cat([1e6 * y[:, :1], 1e-3 * y[:, 1:]], 1),
    "several": lambda y: {"sum": y.sum(-1), "all": [y, (y > 0)]},
}


class OwnNorm(nn.Module):
    """A root-mean-square norm written by hand; where a reference masks channels, only those left count."""

    counting = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.square().mean(1, keepdim=True)
        if self.counting:
            mean = mean * x.shape[1] / (x != 0).any(2).any(0).sum()
        return x / (mean + 1e-5).sqrt() * self.gain[:, None]


class Stage(nn.Module):
    """A convolution, for some of them a norm, and an activation that keeps zeros."""

    def __init__(self, inputs: int, channels: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, channels, 3, padding=1)
        self.norm = OwnNorm(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.3)


class Mixed(nn.Module):
    """Stages with a mix of channels behind each, and an end that may hide what is before it."""

    def __init__(self, stages: list[tuple[int, str, bool]], end: str) -> None:
        super().__init__()
        self.mixes, self.end = [mix for _, mix, _ in stages], end
        self.stages = nn.ModuleList()
        x = torch.zeros(1, 3, 8)
        for channels, mix, norm in stages:
            self.stages.append(Stage(x.shape[1], channels, norm))
            x = MIXES[mix](torch.zeros(1, channels, x.shape[2]))
        self.head = nn.Linear(x.shape[1], 4)

    def body(self, x: Tensor) -> Tensor:
        for stage, mix in zip(self.stages, self.mixes, strict=True):
            x = MIXES[mix](stage(x))
        return self.head(x.mean(2))

    def forward(self, x: Tensor) -> Any:
        return ENDS[self.end](self.body(x))


def reference(net: aw.Supernet, config: Mapping[str, int]) -> Mixed:
    """The full network in which every stage's dropped channels are zeroed where they are made, and nowhere else."""
    full = copy.deepcopy(net.model)
    assert isinstance(full, Mixed)
    for number, stage in enumerate(full.stages):
        assert isinstance(stage, Stage)
        mask = torch.zeros(stage.conv.out_channels, 1)
        mask[kept(net, config, f"stages.{number}.conv.weight")[0]] = 1
        stage.conv.register_forward_hook(lambda _, __, out, mask=mask: out * mask.to(out))
        for module in stage.modules():
            if isinstance(module, OwnNorm):
                module.counting = True
    return full


def check(stages: list[tuple[int, str, bool]], end: str, dtype: torch.dtype, seed: int) -> int:
    """Compare subnets with the reference; returns how many groups are elastic."""
    torch.manual_seed(seed)
    try:
        model = Mixed(stages, end).to(dtype).eval()
        x = torch.randn(3, 3, 8, dtype=dtype)
        model(x)
    except (RuntimeError, ValueError, IndexError, ZeroDivisionError):  # too few channels for a mix
        return 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = aw.Supernet(model, x, divisor=1, min_width=0.1)
    elastic = net.analysis.elastic
    draw = torch.Generator().manual_seed(seed)
    configs = []
    for _ in range(3):
        configs.append(
            {g.name: int(torch.randint(1, g.blocks + 1, (), generator=draw)) * g.block_size for g in elastic}
        )
    for group in elastic:
        configs.append({g.name: g.channels for g in elastic} | {group.name: (group.blocks // 2 + 1) * group.block_size})
        configs.append(
            {g.name: g.channels for g in elastic} | {group.name: max(1, group.blocks // 3) * group.block_size}
        )
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    for channels in configs:
        config = aw.WidthConfig(channels)
        sub, full = net.subnet(config), reference(net, config)
        assert isinstance(sub, Mixed)
        with torch.no_grad():
            got, wanted = sub.body(x), full.body(x)
            error = float((got - wanted).abs().max())
            assert error <= tolerance * float(wanted.abs().max().clamp(min=1)), (stages, end, channels, error)
            assert [t.shape for t in outputs(sub(x))] == [t.shape for t in outputs(full(x))]
    return len(elastic)


_STAGE = st.tuples(st.integers(6, 19), st.sampled_from(sorted(MIXES)), st.booleans())
_ARGUMENTS = {
    "stages": st.lists(_STAGE, min_size=1, max_size=4),
    "end": st.sampled_from(sorted(ENDS)),
    "dtype": st.sampled_from([torch.float32, torch.float64]),
    "seed": st.integers(0, 1000),
}
_QUIET = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.mark.parametrize("mix", sorted(MIXES))
def test_every_mix(mix: str) -> None:
    check([(16, mix, False), (12, "none", False)], "none", torch.float32, 0)


@pytest.mark.parametrize("end", sorted(ENDS))
def test_no_end_hides_swapped_channels(end: str) -> None:
    check([(12, "none", True), (16, "swapped halves", False), (12, "none", False)], end, torch.float32, 0)


def test_plain_stages_are_elastic() -> None:
    assert check([(12, "none", True), (16, "none", False)], "none", torch.float32, 0) == 2


@settings(_QUIET, max_examples=5)
@given(**_ARGUMENTS)
def test_random_structures(stages: list[tuple[int, str, bool]], end: str, dtype: torch.dtype, seed: int) -> None:
    check(stages, end, dtype, seed)


@pytest.mark.slow
@settings(_QUIET, max_examples=40)
@given(**_ARGUMENTS)
def test_many_random_structures(stages: list[tuple[int, str, bool]], end: str, dtype: torch.dtype, seed: int) -> None:
    check(stages, end, dtype, seed)
