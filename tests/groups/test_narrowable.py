"""Structures written by hand that can be narrowed like their ready-made counterparts; subnets equal a network built narrow."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw

Operator = Callable[["Between", Tensor], Tensor]
SIDE = 6


def shuffle(h: Tensor) -> Tensor:
    b, _, height, width = h.shape
    return h.view(b, -1, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3).reshape(b, -1, 2 * height, 2 * width)


def shuffle_last(h: Tensor) -> Tensor:
    b, _, height, width = h.shape
    return h.view(b, 2, 2, -1, height, width).permute(0, 3, 4, 1, 5, 2).reshape(b, -1, 2 * height, 2 * width)


class Between(nn.Module):
    """A convolution, an operator on its channels, and a convolution that reads what comes out."""

    def __init__(self, operator: Operator, channels: int = 16, read: int = 16) -> None:
        super().__init__()
        self.operator = operator
        self.a, self.b = nn.Conv2d(3, channels, 1), nn.Conv2d(read, 4, 3)
        self.register_buffer("filter", torch.tensor([[1.0, 2, 1], [0, 3, 1], [1, 1, -2]]))
        self.register_buffer("kernel", self.filter[None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.operator(self, self.a(x).tanh()))


BLUR = {
    "expanded": lambda net, h: F.conv2d(h, net.kernel.expand(h.shape[1], 1, 3, 3), groups=h.shape[1]),
    "expanded from two dimensions": lambda net, h: F.conv2d(
        h, net.filter[None, None].expand(h.size(1), -1, -1, -1), groups=h.size(1)
    ),
    "repeated": lambda net, h: F.conv2d(h, net.kernel.repeat(h.shape[1], 1, 1, 1), groups=h.shape[1]),
    "repeated from two dimensions": lambda net, h: F.conv2d(h, net.filter.repeat(h.shape[1], 1, 1, 1), groups=h.shape[1]),
    "channels as samples": lambda net, h: F.conv2d(h.reshape(-1, 1, SIDE, SIDE), net.kernel).view(len(h), -1, 4, 4),
}  # fmt: skip


def blurred(net: nn.Module, h: Tensor) -> Tensor:
    """The same for one channel after the other."""
    return torch.cat([F.conv2d(h[:, c : c + 1], net.kernel) for c in range(h.shape[1])], 1)


@pytest.mark.parametrize("name", BLUR)
def test_one_filter_for_all_channels_leaves_them_elastic(name: str) -> None:
    model, x = Between(BLUR[name]).eval(), torch.randn(2, 3, SIDE, SIDE)
    net = aw.Supernet(model, x, divisor=1)
    assert [group.name for group in net.analysis.elastic] == ["a"]
    for kept in (3, 8):
        assert_built_alike(net, x, kept, range(kept), range(kept), blurred)
    assert aw.macs(net, 0.5) == SIDE * SIDE * 3 * 8 + 16 * 9 * 8 + 4 * 9 * 8 * 4


@pytest.mark.parametrize(("how", "rows"), [(shuffle, lambda c: range(c)), (shuffle_last, lambda c: [
    corner * 4 + channel for corner in range(4) for channel in range(c // 4)])])  # fmt: skip
def test_pixel_shuffles_by_hand_leave_channels_elastic(
    how: Callable[[Tensor], Tensor], rows: Callable[[int], object]
) -> None:
    model, x = Between(lambda _, h: how(h), read=4).eval(), torch.randn(2, 3, SIDE, SIDE)
    net = aw.Supernet(model, x, divisor=1)
    assert [(group.name, group.block_size) for group in net.analysis.elastic] == [("a", 4)]
    for kept in (4, 12):
        assert_built_alike(net, x, kept, rows(kept), range(kept // 4), lambda _, h: how(h))


def assert_built_alike(net: aw.Supernet, x: Tensor, kept: int, rows: object, read: object, operator: Operator) -> None:
    """A subnet equals a network of layers that are cut by hand."""
    rows, read = torch.tensor(list(rows)), torch.tensor(list(read))  # type: ignore[call-overload]
    narrow, config = Between(operator, len(rows), len(read)).eval(), aw.WidthConfig({"a": kept})
    with torch.no_grad():
        narrow.a.weight.copy_(net.model.a.weight[rows])
        narrow.a.bias.copy_(net.model.a.bias[rows])
        narrow.b.weight.copy_(net.model.b.weight[:, read])
        narrow.b.bias.copy_(net.model.b.bias)
        for sub in (net.subnet(config).eval(), net.extract(config).eval()):
            torch.testing.assert_close(sub(x), narrow(x))


def test_a_layer_on_the_first_channels_does_not_freeze_the_others() -> None:
    class Partial(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.p, self.b = nn.Linear(6, 16), nn.Linear(4, 4), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).tanh()
            return self.b(torch.cat([self.p(h[:, :4]), h[:, 4:]], 1))

    model, x = Partial(), torch.randn(5, 6)
    net = aw.Supernet(model, x, divisor=1)
    rest = next(group for group in net.analysis.elastic if group.channels == 12)
    assert rest.producers == ("a",)
    h = torch.cat([model.p(model.a(x).tanh()[:, :4]), model.a(x).tanh()[:, 4:9]], 1)
    wanted = F.linear(h, model.b.weight[:, :9], model.b.bias)
    channels = {group.name: group.channels for group in net.analysis.elastic} | {rest.name: 5}
    torch.testing.assert_close(net.subnet(aw.WidthConfig(channels))(x), wanted)


class Equalised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.in_features**-0.5, self.bias)


class EqualisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * (self.in_channels * 9) ** -0.5, self.bias)


def test_equalised_learning_rates_stay_those_of_the_full_network() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = EqualisedConv(3, 16, 3), EqualisedConv(16, 24, 3), Equalised(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.b(self.a(x).relu()).relu().mean((2, 3)))

    model, x = Net(), torch.randn(2, 3, SIDE, SIDE)
    net = aw.Supernet(model, x, divisor=1)
    assert [group.name for group in net.analysis.elastic] == ["a", "b"]
    assert "o.in_features = 24 (the channels of b)" in net.summary()
    h = F.conv2d(x, model.a.weight[:8] * 27**-0.5, model.a.bias[:8]).relu()
    h = F.conv2d(h, model.b.weight[:12, :8] * 144**-0.5, model.b.bias[:12]).relu().mean((2, 3))
    wanted = F.linear(h, model.o.weight[:, :12] * 24**-0.5, model.o.bias)
    for sub in (net.subnet(0.5), net.extract(0.5)):
        torch.testing.assert_close(sub(x), wanted)


def test_sizes_of_layers_without_effect_follow_their_weights() -> None:
    class Checked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[-1] <= self.in_features
            return super().forward(x)

    net = aw.Supernet(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), Checked(16, 3)), torch.randn(2, 6), divisor=1)
    assert net.subnet(0.5)[2].in_features == 8


class Cached(nn.Module):
    """A table of the channels, made once."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.a, self.b = how, nn.Linear(6, 16), nn.Linear(16, 3)

    @cached_property
    def table(self) -> Tensor:
        return torch.arange(1.0, 1 + self.a.out_features)

    @cached_property
    def pair(self) -> tuple[Tensor, Tensor]:
        return torch.ones(self.a.out_features), torch.arange(1.0, 1 + self.a.out_features)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        if self.how == "property":
            return self.b(h * self.table)
        if self.how == "pair":
            return self.b(h * self.pair[0] * self.pair[1])
        if not hasattr(self, "made"):
            self.made = torch.arange(1.0, 1 + h.shape[1])
        return self.b(h * self.made)


@pytest.mark.parametrize("how", ["property", "pair", "attribute"])
@pytest.mark.parametrize("ran", [False, True])
def test_caches_filled_before_are_made_anew_in_subnets(how: str, ran: bool) -> None:
    model, x = Cached(how), torch.randn(4, 6)
    wanted = model(x) if ran else None
    net = aw.Supernet(model, x, divisor=1)
    assert [group.name for group in net.analysis.elastic] == ["a"]
    h = F.linear(x, model.a.weight[:8], model.a.bias[:8]).tanh() * torch.arange(1.0, 9)
    torch.testing.assert_close(net.subnet(0.5)(x), F.linear(h, model.b.weight[:, :8], model.b.bias))
    assert wanted is None or torch.equal(model(x), wanted)


def test_values_fitted_to_the_first_batch_are_no_cache() -> None:
    class Fitted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            if not hasattr(self, "scale"):
                self.scale = 1 / h.detach().std(0)
            return self.b(h * self.scale)

    model, x = Fitted(), torch.randn(4, 6)
    model(x)
    with pytest.warns(UserWarning, match="of the MACs"):
        net = aw.Supernet(model, x, divisor=1)
    assert not net.analysis.elastic
