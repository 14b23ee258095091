"""Operators between two convolutions: whatever they do to channels, no subnet computes anything wrong.

An operator may freeze channels. What stays elastic has to give the outputs of the full network with dropped channels
masked and the gradients of autograd through slicing, at every config.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from fast import fast_and_slow
from proofs import assert_close, assert_like_slicing, call, configs, kept, masked
from zoo import Case

Operator = Callable[[Tensor], Tensor]
CHANNELS, SIDE = 12, 4


def _view(x: Tensor, *shape: int) -> Tensor:
    return x.reshape(len(x), *shape, *x.shape[2:])


def _in_place(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 5:] *= 2
    x[:, -2:] += 1
    return x


# Zeros in place of dropped channels do not change what these make of the others.
LOCAL: dict[str, Operator] = {
    "relu": F.relu,
    "exp": torch.exp,
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "divide": lambda x: x / (1 + x.abs()),
    "masked fill": lambda x: x.masked_fill(x < 0, 0.5),
    "in place": _in_place,
    "zeroed in place": lambda x: x.clone().index_fill_(3, torch.tensor([0]), 0.0),
    "double precision cast": lambda x: (x.float().double() + x) / 2,
    "flip channels": lambda x: x.flip(1),
    "flip positions": lambda x: x.flip(2, 3),
    "roll channels": lambda x: x.roll(5, 1),
    "roll positions": lambda x: x.roll(1, 2),
    "first channels": lambda x: x[:, :7],
    "last channels": lambda x: x[:, 7:],
    "last channels from the end": lambda x: x[:, -5:],
    "every second": lambda x: x[:, 1::2],
    "picked by list": lambda x: x[:, [0, 2, 7]],
    "picked by index": lambda x: x.index_select(1, torch.tensor([4, 3, 3])),
    "gathered": lambda x: x.gather(1, torch.zeros_like(x, dtype=torch.long) + 3),
    "one channel": lambda x: x.select(1, 4).unsqueeze(1),
    "one channel for all": lambda x: x * x[:, 2:3],
    "narrow": lambda x: x.narrow(1, 3, 6),
    "second half": lambda x: x.chunk(2, 1)[1],
    "maxout": lambda x: torch.maximum(*x.chunk(2, 1)),
    "gate": lambda x: F.glu(x, 1),
    "swapped halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "thirds": lambda x: sum(x.chunk(3, 1)),  # type: ignore[arg-type,return-value]
    "unequal chunks": lambda x: torch.cat([part.exp() for part in x.chunk(5, 1)], 1),
    "unequal split": lambda x: torch.cat(x.split([5, 7], 1)[::-1], 1),
    "split used apart": lambda x: x.split([5, 7], 1)[1],
    "tensor split": lambda x: x.tensor_split([3, 8], 1)[1],
    "unbind": lambda x: torch.stack(x.unbind(1)[::-1], 1),
    "sum of outer pieces": lambda x: _view(x, 3, -1).sum(1),
    "sum of outer pieces of fixed size": lambda x: _view(x, 3, 4).sum(1),
    "sum of inner pieces": lambda x: _view(x, -1, 4).sum(2),
    "sum of inner pieces of fixed size": lambda x: _view(x, 3, 4).sum(2),
    "max of inner pieces": lambda x: _view(x, -1, 2).amax(2),
    "shuffle": lambda x: _view(x, 2, 6).transpose(1, 2).flatten(1, 2),
    "shuffle of three": lambda x: x.unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2),
    "shuffle by permute": lambda x: _view(x, 2, 3, 2).permute(0, 3, 1, 2, 4, 5).flatten(1, 3),
    "channels last and back": lambda x: x.permute(0, 2, 3, 1).exp().movedim(-1, 1),
    "channels become rows": lambda x: x.transpose(1, 2),
    "channels mix with rows": lambda x: x.reshape(len(x), -1, SIDE // 2, SIDE),
    "rows mix with channels": lambda x: x.reshape(len(x), CHANNELS // 2, SIDE * 2, SIDE),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "repeat interleave": lambda x: x.repeat_interleave(2, 1),
    "tile": lambda x: torch.tile(x, (1, 3, 1, 1)),
    "cat with itself": lambda x: torch.cat([x, -x], 1),
    "cat with its flip": lambda x: torch.cat([x, x.flip(1)], 1),
    "cat along rows": lambda x: torch.cat([x, x.exp()], 2),
    "stack outside": lambda x: torch.stack([x, x.exp()], 1).flatten(1, 2),
    "stack inside": lambda x: torch.stack([x, x.exp()], 2).flatten(1, 2),
    "pad channels": lambda x: F.pad(x, (0, 0, 0, 0, 2, 3), value=0.5),
    "crop channels": lambda x: F.pad(x, (0, 0, 0, 0, -2, -3)),
    "pad positions": lambda x: F.pad(x, (1, 1, 2, 0), mode="reflect"),
    "circular pad": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "sum over positions": lambda x: x.sum((2, 3), keepdim=True),
    "spread over positions": lambda x: x.std((2, 3), keepdim=True),
    "norm over positions": lambda x: x / (1 + torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)),
    "softmax over positions": lambda x: x.flatten(2).softmax(-1).view_as(x),
    "sum over channels": lambda x: x.sum(1, keepdim=True),
    "square sum over channels": lambda x: x / (1 + x.square().sum(1, keepdim=True)),
    "norm over channels": lambda x: x / (1 + x.norm(dim=1, keepdim=True)),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "upsample": lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "windows": lambda x: F.unfold(x, 2).unflatten(2, (3, 3)),
    "sliding windows": lambda x: x.unfold(2, 2, 1).amax(-1),
    "sliding windows over channels": lambda x: x.unfold(1, 3, 3).amax(-1),
    "channels by channels": lambda x: torch.einsum("bchw,bdhw->bcd", x, x).unsqueeze(3),
    "gram": lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2)).unsqueeze(3),
    "positions by positions": lambda x: (x.flatten(2).transpose(1, 2) @ x.flatten(2)).unsqueeze(3),
    "mask of rows": lambda x: x * torch.ones(SIDE, dtype=x.dtype).cumsum(0),
    "number of channels": lambda x: x / x.shape[1] * CHANNELS / (CHANNELS / x.shape[1]),
    "made in the forward": lambda x: x + torch.zeros(x.shape[1], 1, 1, dtype=x.dtype),
    "fixed table": lambda x: x * torch.linspace(1, 2, CHANNELS, dtype=x.dtype).view(CHANNELS, 1, 1),
    "table that is cut": lambda x: x * torch.linspace(1, 2, CHANNELS, dtype=x.dtype)[: x.shape[1]].view(-1, 1, 1),
    "positions of channels": lambda x: x * torch.arange(x.shape[1], dtype=x.dtype).view(-1, 1, 1),
    "table from the end": lambda x: x * torch.arange(x.shape[1], 0, -1, dtype=x.dtype).view(-1, 1, 1),
    "hard-coded view": lambda x: x.reshape(-1, CHANNELS, SIDE, SIDE),
    "unbatched": lambda x: torch.cat([image.unsqueeze(0) for image in x]),
    "batch mixes with channels": lambda x: x.reshape(-1, 2, CHANNELS // 2, SIDE, SIDE).transpose(0, 1).flatten(1, 2)[0:1],
    "rounding": torch.round,
    "comparison": lambda x: (x > 0.1).double() + x,
    "lookup of values": lambda x: torch.linspace(-1, 1, 9, dtype=x.dtype)[(x.clamp(0, 1) * 8).long()],
    "difference of neighbours": lambda x: x.diff(dim=1),
    "cumulative sum": lambda x: x.cumsum(1),
    "neighbours by pooling": lambda x: F.avg_pool1d(x.flatten(2).transpose(1, 2), 3, 1, 1).transpose(1, 2).view_as(x),
    "convolution over channels": lambda x: (
        x * torch.sigmoid(F.conv1d(x.mean((2, 3)).unsqueeze(1), torch.ones(1, 1, 3, dtype=x.dtype), padding=1)).view(
            len(x), -1, 1, 1
        )
    ),
}  # fmt: skip

# These count or compare channels, so that dropped ones have to be left out rather than zero.
COUNTING: dict[str, Operator] = {
    "softmax over channels": lambda x: x.softmax(1),
    "log softmax over channels": lambda x: F.log_softmax(x, 1),
    "mean over channels": lambda x: x - x.mean(1, keepdim=True),
    "variance over channels": lambda x: x / (1 + x.var(1, keepdim=True, correction=0)),  # one channel has no other
    "maximum over channels": lambda x: x - x.amax(1, keepdim=True),
    "largest channel": lambda x: x.max(1, keepdim=True)[0] + x,
    "log sum of channels": lambda x: x - x.logsumexp(1, keepdim=True),
    "layer norm": lambda x: F.layer_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1),
    "rms norm": lambda x: F.rms_norm(x.movedim(1, -1), (x.shape[1],)).movedim(-1, 1),
    "layer norm of fixed size": lambda x: F.layer_norm(x.movedim(1, -1), (CHANNELS,)).movedim(-1, 1),
    "group norm of one": lambda x: F.group_norm(x, 1),
    "group norm of three": lambda x: F.group_norm(x, 3),
    "instance norm": F.instance_norm,
    "layer norm of everything": lambda x: F.layer_norm(x, x.shape[1:]),
    "sorted channels": lambda x: x.sort(1)[0],
    "best channels": lambda x: x.topk(3, 1)[0],
    "product of channels": lambda x: x.prod(1, keepdim=True),
    "exponentials": lambda x: x.exp().sum(1, keepdim=True),
    "standardised": lambda x: F.normalize(x, dim=1),
    "response norm": lambda x: F.local_response_norm(x, 3),
    "cosine": lambda x: F.cosine_similarity(x, x.flip(2), dim=1).unsqueeze(1),
    "which channel": lambda x: F.one_hot(x.argmax(1), CHANNELS).movedim(-1, 1).double() * x,
    "distances": lambda x: torch.cdist(x.flatten(2).transpose(1, 2), x.flatten(2).transpose(1, 2)).unsqueeze(3),
    "median": lambda x: x - x.median(1, keepdim=True)[0],
}  # fmt: skip


class Between(nn.Module):
    """Convolution and norm, an operator, and a convolution that reads what comes out."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.Conv2d(3, CHANNELS, 3, padding=1), nn.BatchNorm2d(CHANNELS))
        self.operator = operator
        with torch.no_grad():
            channels = operator(self.before(torch.randn(2, 3, SIDE, SIDE)).double()).shape[1]
        self.after = nn.Sequential(nn.Conv2d(channels, 10, 1), nn.ReLU(), nn.Conv2d(10, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.operator(self.before(x)))


def prepare(operator: Operator) -> tuple[Case, aw.Supernet]:
    case = Case(
        name="operator",
        build=lambda: Between(operator),
        inputs=lambda: torch.randn(2, 3, SIDE, SIDE, dtype=torch.float64),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        return case, aw.Supernet(case.model(), case.example(), divisor=1, min_width=0.1)


def without_dropped_channels(net: aw.Supernet, config: aw.WidthConfig, case: Case) -> nn.Module:
    """The full network with zeros in place of dropped channels, for operators that read them without weights too."""
    full = masked(net, config, case)
    (indices,) = kept(net, config, "before.1.weight")
    rest = torch.ones(CHANNELS, dtype=torch.bool)
    rest[indices] = False
    with torch.no_grad():
        full.before[1].weight[rest] = 0.0
        full.before[1].bias[rest] = 0.0
    return full


def check_gradients(net: aw.Supernet, config: aw.WidthConfig, x: Tensor) -> None:
    for training in (False, True):
        assert_like_slicing(net, config, x, training=training)


# What has to stay elastic for the package to be of use; other operators may freeze what they touch.
FREE = {
    "relu", "where", "divide", "masked fill", "flip channels", "flip positions", "roll positions", "second half",
    "maxout", "gate", "swapped halves", "thirds", "sum of outer pieces", "max of inner pieces", "channels last and back",
    "repeat", "repeat interleave", "cat with itself", "cat with its flip", "cat along rows", "stack outside",
    "stack inside", "pad channels", "pad positions", "sum over positions", "softmax over positions", "pixel shuffle",
    "sum over channels", "square sum over channels", "pixel unshuffle", "upsample", "windows", "comparison",
    "softmax over channels", "mean over channels", "layer norm", "group norm of one", "instance norm",
}  # fmt: skip
# One of each kind.
FAST = {
    "relu", "in place", "flip channels", "roll channels", "picked by index", "one channel for all", "gate",
    "swapped halves", "unequal split", "sum of outer pieces", "max of inner pieces", "shuffle",
    "channels last and back", "channels mix with rows", "repeat interleave", "cat with its flip", "pad channels",
    "square sum over channels", "pixel shuffle", "sliding windows over channels", "gram", "fixed table",
    "table from the end", "batch mixes with channels", "cumulative sum", "softmax over channels",
    "layer norm of fixed size", "group norm of three", "sorted channels", "which channel",
}  # fmt: skip


def check_free(name: str, net: aw.Supernet) -> None:
    frozen = {group.name: group.frozen for group in net.groups}
    assert name not in FREE or frozen["before.0"] is None
    assert "after.0" in {group.name for group in net.analysis.elastic}  # behind it all is free again


@pytest.mark.parametrize("name", fast_and_slow(LOCAL, FAST & LOCAL.keys()))
def test_subnets_equal_the_full_network_with_dropped_channels_zeroed(name: str) -> None:
    case, net = prepare(LOCAL[name])
    x = case.example(1)
    check_free(name, net)
    for config in configs(net):
        share_statistics(net, [config])
        with torch.no_grad():
            assert_close(call(net.subnet(config).eval(), x), call(without_dropped_channels(net, config, case), x))
        check_gradients(net, config, x)


@pytest.mark.parametrize("name", fast_and_slow(COUNTING, FAST & COUNTING.keys()))
def test_subnets_run_as_the_operator_says_for_fewer_channels(name: str) -> None:
    case, net = prepare(COUNTING[name])
    x = case.example(1)
    check_free(name, net)
    for config in configs(net):
        share_statistics(net, [config])
        check_gradients(net, config, x)
