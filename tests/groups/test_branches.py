"""Forwards that take another way for some numbers of channels, sizes of inputs, in training, or with other weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.groups.branches import compared_numbers

LIMIT = 40


class Net(nn.Module):
    """One hidden layer, whose values a function changes."""

    def __init__(self, change: Callable[[Net, Tensor, Tensor], Tensor], channels: int = 32, start: float = 0.0) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(6, channels), nn.Linear(channels, 5)
        self.number = nn.Parameter(torch.tensor([start]))
        self.half = channels // 2
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.change(self, torch.tanh(self.hidden(x)), x))


class Block(nn.Module):
    """A convolution with a skip connection where shapes permit."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x))
        return y + x if y.shape == x.shape else y


def even(_: Net, h: Tensor, __: Tensor) -> Tensor:
    return h * 2 if h.shape[1] % 8 == 0 else h


def listed(_: Net, h: Tensor, __: Tensor) -> Tensor:
    return h * {48: 2.0}.get(h.shape[1], 1.0)


def square(_: Net, h: Tensor, __: Tensor) -> Tensor:
    return h + h.transpose(1, 2) if h.shape[1] == h.shape[2] else h


def single(_: Net, h: Tensor, __: Tensor) -> Tensor:
    return h * 3 if h.shape[1] == 1 else h


def gated(net: Net, h: Tensor, _: Tensor) -> Tensor:
    return h * (1 + torch.relu(-net.number) * h.shape[1] ** -0.5)


def capped(net: Net, h: Tensor, _: Tensor) -> Tensor:
    return h * net.number.exp().clamp(max=4 * h.shape[1])


def below(net: Net, h: Tensor, _: Tensor) -> Tensor:
    return h + net.hidden.bias.clamp(max=0) * h.shape[1]


def scaled_in_training(net: Net, h: Tensor, _: Tensor) -> Tensor:
    return h / h.shape[1] ** 0.5 if net.training else h


def by_batch(_: Net, h: Tensor, x: Tensor) -> Tensor:
    return h / h.shape[1] if x.shape[0] == 1 else h


@pytest.mark.parametrize(
    ("change", "options", "shape", "channels"),
    [
        (even, {"channels": 60}, (3, 6), 60),
        (listed, {"channels": 64}, (3, 6), 64),
        (square, {}, (2, 16, 6), 32),
        (single, {"channels": 16}, (3, 6), 16),
        (gated, {"start": -1.0}, (3, 6), 32),
        (capped, {"start": 4.6}, (3, 6), 32),
        (below, {}, (3, 6), 32),
        (scaled_in_training, {}, (3, 6), 32),
        (by_batch, {}, (3, 6), 32),
    ],
)
def test_what_is_wrong_for_some_widths_or_inputs_alone_is_frozen(
    change: Any, options: dict[str, Any], shape: tuple[int, ...], channels: int
) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        net = aw.Supernet(Net(change, **options), torch.randn(shape), divisor=1)
    group = net.groups[0]
    assert group.name == "hidden"
    assert group.channels == channels
    assert "narrowed" in str(group.frozen)


def test_a_skip_connection_that_only_narrowed_channels_have() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), Block(16, 16), Block(16, 24), Block(24, 40), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(40, 5),
    )  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    net = aw.Supernet(model.eval(), x)
    assert [group.name for group in net.groups if group.frozen] == ["2.conv", "3.conv", "6"]
    for width in (0.25, 0.5, 0.75):
        blocks = [module for module in net.subnet(width).modules() if isinstance(module, Block)]
        assert [block.conv.out_channels for block in blocks[1:]] == [24, 40]


def test_an_integer_that_matters_in_training_alone_follows() -> None:
    def halves(net: Net, h: Tensor, _: Tensor) -> Tensor:
        return torch.cat([h[:, : net.half], h[:, net.half :].flip(0)], 1) if net.training else h

    net = aw.Supernet(Net(halves), torch.randn(4, 6), divisor=1)
    half = net.subnet(0.5)
    assert half.half == 8
    assert not any(group.frozen for group in net.groups[:2])


def test_a_way_that_only_larger_images_take() -> None:
    class Flips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 1), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.first(x))
            if x.shape[-1] > 8:
                h = h.flip(1)
            return self.head(self.second(h).mean((2, 3)))

    net = aw.Supernet(Flips(), torch.randn(2, 3, 8, 8))
    frozen = {group.name: str(group.frozen) for group in net.groups if group.frozen}
    assert "for inputs of shape (2, 3, 16, 16)" in frozen["first"]
    assert "second" not in frozen


def test_what_compares() -> None:
    class Helper(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return helper(x)

    assert compared_numbers(nn.Sequential(nn.Linear(2, 2), nn.ReLU())) is None
    assert compared_numbers(Block(3, 3)) is not None
    assert compared_numbers(Helper()) is not None


def helper(x: Tensor) -> Tensor:
    return x if x.shape[0] > 2 else -x


class Limited(nn.Module):
    """Turns channels round in sequences that are longer than a limit."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.where, self.limit, self.config = where, 40, SimpleNamespace(limit=40)
        limit = 40
        self.reached = lambda length: length > limit

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        if self.where == "attribute":
            reached = x.shape[1] > self.limit
        elif self.where == "config":
            reached = x.shape[1] > self.config.limit
        elif self.where == "global":
            reached = x.shape[1] > LIMIT
        else:
            reached = self.reached(x.shape[1])
        return self.o(self.b(x.flip(-1) if reached else x).relu())


@pytest.mark.parametrize("where", ["attribute", "config", "global", "closure"])
def test_limits_that_are_not_in_code_are_found(where: str) -> None:
    net = aw.Supernet(Limited(where), torch.randn(2, 16, 8))
    frozen = {group.name: group.frozen for group in net.groups}
    assert frozen["b"] is None
    assert "for inputs of shape (2, 41, 8)" in str(frozen["a"])
