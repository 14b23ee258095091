"""Integers that equal a number of channels by accident are left alone; those that count channels follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import anywidth as aw
from fast import fast_and_slow

CHANNELS = 16


class Cell(nn.Module):
    """Two layers, and integers of which subclasses make something."""

    def __init__(self, channels: int, number: int) -> None:
        super().__init__()
        self.channels, self.number = channels, number
        self.first, self.last = nn.Linear(channels, channels), nn.Linear(channels, channels)


class LastTokens(Cell):
    def forward(self, x: Tensor) -> Tensor:
        x = x[:, -self.number :]
        return self.last(self.first(x).view(len(x), -1, self.channels).relu())


class FirstTokens(Cell):
    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x[:, : self.number].shape
        return self.last(self.first(x[:, : self.number]).view(b, t, self.channels).relu())


class Branches(Cell):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > self.number:
            x = x[:, : self.number].flip(1)
        return self.last(self.first(x).view(len(x), -1, self.channels).relu())


class Asserts(Cell):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] <= self.number, "too long"
        return self.last(self.first(x).view(len(x), -1, self.channels).relu())


class Divides(Cell):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).view(len(x), -1, self.channels)
        return self.last(y / max(1, x.shape[1] // self.number))


class Mask(Cell):
    """A causal mask with as many positions as there are channels, made in the forward."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        mask = torch.ones(self.number, self.number).tril()[:t, :t]
        return self.last(mask @ self.first(x).view(b, t, self.channels))


class MaskBuffer(Cell):
    """A causal mask that is a buffer."""

    def __init__(self, channels: int, number: int) -> None:
        super().__init__(channels, number)
        self.register_buffer("mask", torch.ones(number, number).tril(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        return self.last(self.mask[:t, :t] @ self.first(x).view(b, t, c))


class Positions(Cell):
    """A table of positions, of the same size in both dimensions."""

    def __init__(self, channels: int, number: int) -> None:
        super().__init__(channels, number)
        self.table = nn.Parameter(torch.randn(number, channels))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        return self.last((self.first(x) + self.table[:t]).view(b, t, self.channels).relu())


class Steps(Cell):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).view(len(x), -1, self.channels)
        for _ in range(self.number):
            y = y * 0.9
        return self.last(y)


class Tuple(Cell):
    def __init__(self, channels: int, number: int) -> None:
        super().__init__(channels, number)
        self.shape = (number, channels)

    def forward(self, x: Tensor) -> Tensor:
        most, channels = self.shape
        y = x[:, :most]
        return self.last(self.first(y).view(len(x), -1, channels).relu())


class List(Cell):
    def __init__(self, channels: int, number: int) -> None:
        super().__init__(channels, number)
        self.limits = [number, 3]

    def forward(self, x: Tensor) -> Tensor:
        y = x[:, : self.limits[0]]
        return self.last(self.first(y).view(len(x), -1, self.channels).relu())


@dataclass
class Config:
    """Settings that a forward reads."""

    number: int


class Nested(Cell):
    def __init__(self, channels: int, number: int) -> None:
        super().__init__(channels, number)
        self.config = Config(number)

    def forward(self, x: Tensor) -> Tensor:
        y = x[:, -self.config.number :]
        return self.last(self.first(y).view(len(x), -1, self.channels).relu())


class Late(Cell):
    """For long inputs alone, a reshape needs the number of channels."""

    def __init__(self, channels: int, number: int) -> None:
        super().__init__(channels, number)
        self.late = channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if x.shape[1] > 20:
            y = y.reshape(len(x), x.shape[1], self.late) * 2
        return self.last(y)


def network(cell: type[Cell], channels: int, number: int) -> nn.Sequential:
    """A cell between two layers."""
    return nn.Sequential(nn.Linear(5, channels), cell(channels, number), nn.Linear(channels, 3)).eval()


def narrow_by_hand(cell: type[Cell], net: aw.Supernet, sub: nn.Module, number: int) -> nn.Module:
    """The network built with the channels of the subnet and the same number, with the subnet's weights."""
    channels = sub.get_parameter("1.first.weight").shape[0]
    narrow = network(cell, channels, number)
    narrow.load_state_dict(sub.state_dict())
    return narrow


CELLS = [
    LastTokens, FirstTokens, Branches, Asserts, Divides, Mask, MaskBuffer, Positions, Steps, Tuple, List, Nested, Late,
]  # fmt: skip


def _name(pair: tuple[type[Cell], int]) -> tuple[str, int]:
    return pair[0].__name__, pair[1]


@pytest.mark.parametrize(
    ("cell", "factor"),
    fast_and_slow(
        [(cell, factor) for cell in CELLS for factor in (1, 2, 7)],
        {("Mask", 2), ("Branches", 7), *((cell.__name__, 1) for cell in CELLS)},
        name=_name,
    ),
)
def test_a_number_that_equals_the_channels_is_left_alone(cell: type[Cell], factor: int) -> None:
    number = factor * CHANNELS
    net = aw.Supernet(network(cell, CHANNELS, number), torch.randn(2, 6, 5), divisor=1)
    assert net.elastic_share == 1, net.summary()
    sub = net.subnet(0.5)
    assert sub.get_parameter("1.first.weight").shape == (8, 8)
    narrow = narrow_by_hand(cell, net, sub, number)
    for tokens in (6, 9, CHANNELS, 3):
        x = torch.randn(3, tokens, 5)
        torch.testing.assert_close(sub(x), narrow(x))


@pytest.mark.parametrize(
    ("cell", "tokens"),
    fast_and_slow(
        [(cell, tokens) for cell in (LastTokens, FirstTokens, Branches, Late) for tokens in (12, 16, 40)],
        {("FirstTokens", 12), ("Branches", 16), ("Late", 40)},
        name=_name,
    ),
)
def test_examples_of_any_length_lead_to_the_same(cell: type[Cell], tokens: int) -> None:
    net = aw.Supernet(network(cell, CHANNELS, CHANNELS), torch.randn(2, tokens, 5), divisor=1)
    assert net.elastic_share == 1, net.summary()
    sub = net.subnet(0.5)
    narrow = narrow_by_hand(cell, net, sub, CHANNELS)
    for length in (4, 12, 16, 50):
        x = torch.randn(2, length, 5)
        torch.testing.assert_close(sub(x), narrow(x))


class Padding(nn.Module):
    """Tokens of one number are left out."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.channels, self.padding = channels, padding
        self.embed, self.first = nn.Embedding(40, channels), nn.Linear(channels, channels)
        self.head = nn.Linear(channels, 4)

    def forward(self, i: Tensor) -> Tensor:
        h = self.first(self.embed(i)).view(*i.shape, self.channels)
        return self.head((h * (i != self.padding)[..., None]).sum(1))


def test_a_padding_index_is_left_alone() -> None:
    net = aw.Supernet(Padding(16, 16).eval(), torch.randint(0, 15, (2, 6)), divisor=1)
    sub, narrow = net.subnet(0.5), Padding(8, 16).eval()
    narrow.load_state_dict(sub.state_dict())
    tokens = torch.tensor([[1, 16, 8, 16, 3, 2]])
    torch.testing.assert_close(sub(tokens), narrow(tokens))
    assert net.elastic_share == 1


class BothUses(Cell):
    """One number for two things, which no subnet can have right for long inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x[:, -self.channels :]).view(len(x), -1, self.channels).relu())


def test_a_number_that_means_two_things_freezes_the_channels() -> None:
    model = network(BothUses, 16, 5)
    net = aw.Supernet(model, torch.randn(2, 6, 5), divisor=1)
    assert {group.name: group.frozen is None for group in net.groups}["1.first"] is False
    assert net.subnet(0.5)(torch.randn(2, 16, 5)).shape == (2, 16, 3)


class Attention(nn.Module):
    """Causal self-attention as in a GPT by hand; the mask is a buffer."""

    def __init__(self, channels: int, inner: int, heads: int, context: int) -> None:
        super().__init__()
        self.inner, self.heads, self.context = inner, heads, context
        self.qkv, self.out = nn.Linear(channels, 3 * inner), nn.Linear(inner, channels)
        self.register_buffer("mask", torch.ones(context, context).tril().view(1, 1, context, context))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, -self.context :]
        b, t, _ = x.shape
        q, k, v = (p.view(b, t, self.heads, -1).transpose(1, 2) for p in self.qkv(x).split(self.inner, 2))
        weights = (q @ k.transpose(-2, -1)) / math.sqrt(k.shape[-1])
        weights = weights.masked_fill(self.mask[:, :, :t, :t] == 0, float("-inf")).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, t, self.inner))


def transformer(channels: int, inner: int, heads: int, context: int) -> nn.Module:
    """A layer of attention between two layers, with a norm."""
    parts = (nn.Linear(5, channels), nn.LayerNorm(channels), Attention(channels, inner, heads, context))
    return nn.Sequential(*parts, nn.Linear(channels, 3)).eval()


_ANY = given(
    heads=st.sampled_from([2, 4]),
    size=st.sampled_from([4, 8]),
    context=st.sampled_from([2, 4, 8, 16, 32, 64]),
    example=st.integers(2, 6),  # one token has nothing to attend to, so that heads would be narrowed inside
)


@settings(max_examples=2, deadline=None, derandomize=True)
@_ANY
def test_attention_of_a_context(heads: int, size: int, context: int, example: int) -> None:
    check_attention(heads, size, context, example)


@pytest.mark.slow
@settings(max_examples=6, deadline=None, derandomize=True)
@_ANY
def test_attention_of_any_context(heads: int, size: int, context: int, example: int) -> None:
    check_attention(heads, size, context, example)


def check_attention(heads: int, size: int, context: int, example: int) -> None:
    channels = heads * size
    net = aw.Supernet(transformer(channels, channels, heads, context), torch.randn(2, example, 5), divisor=1)
    assert net.elastic_share == 1, net.summary()
    sub = net.subnet(0.5)
    attention = sub.get_submodule("2")
    narrow = transformer(channels // 2, channels // 2, heads // 2, context)
    narrow.load_state_dict(sub.state_dict())
    assert attention.heads == heads // 2
    for tokens in {1, context // 2, context, context + 3}:
        x = torch.randn(2, tokens, 5)
        torch.testing.assert_close(sub(x), narrow(x))


def test_the_summary_lists_what_is_left_alone() -> None:
    net = aw.Supernet(network(LastTokens, 16, 16), torch.randn(2, 6, 5), divisor=1)
    (found,) = net.analysis.coincidences
    assert (found.module, found.attribute, found.value, found.groups) == ("1", "number", 16, ("1.first",))
    assert "left alone" in net.summary()
    assert "1.number = 16 (the channels of 1.first)" in net.summary()
    other = aw.Supernet(network(LastTokens, 16, 17), torch.randn(2, 6, 5), divisor=1)
    assert other.analysis.coincidences == ()
    assert "left alone" not in other.summary()


def test_other_inputs_leave_no_trace() -> None:
    class Counts(LastTokens):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.longest = max(getattr(self, "longest", 0), x.shape[1])
            return super().forward(x)

    model = network(Counts, 16, 16)
    before = torch.random.get_rng_state()
    aw.Supernet(model, torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)), divisor=1)
    assert getattr(model[1], "longest", 0) <= 6
    assert torch.equal(torch.random.get_rng_state(), before)
