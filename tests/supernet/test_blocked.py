"""Blocked networks compute what extracted ones do, without the products with zeros."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import anywidth as aw
from anywidth.core.errors import AnalysisError, WidthError
from anywidth.groups.later_shells import LaterEntries
from anywidth.supernet.blocked import Blocked
from anywidth.supernet.blocked_attention import split_attention
from fast import fast_and_slow
from supernet.test_progressive import Concatenated, made
from supernet.test_random_networks import Network, networks

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def vgg() -> nn.Module:
    """The features of a VGG with a smaller head, whose first layers have most of its weights."""
    features = torchvision.models.vgg11_bn(weights=None, init_weights=False).features
    head = nn.Linear(512, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
    "densenet": lambda: torchvision.models.DenseNet(growth_rate=16, block_config=(2, 3), num_classes=10),
    "vgg": vgg,
}


def randomise(model: nn.Module) -> None:
    """Norms of a network that has been trained."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5),
                (module.weight, 0.5, 1.5), (module.bias, -0.2, 0.2),
            ):  # fmt: skip
                nn.init.uniform_(tensor, low, high)  # type: ignore[arg-type]


@torch.no_grad()
def flops(model: nn.Module, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(x)
    return counter.get_total_flops()


def assert_blocked(net: aw.Supernet, x: Tensor, *, smallest: int = 0, rtol: float = 1e-7) -> None:
    """Every width computes the same as the extracted network, with the MACs that are counted."""
    for config in net.shells.widths:
        dense, module = net.extract(config).eval(), net.blocked(config, smallest=smallest).eval()
        with torch.no_grad():
            wanted = dense(x)
            torch.testing.assert_close(module(x), wanted, rtol=rtol, atol=rtol * float(wanted.abs().max()))
        if not smallest:
            assert flops(module, x) == 2 * aw.macs(net, config) * len(x)


@pytest.mark.parametrize("name", fast_and_slow(MODELS, {"densenet"}))
def test_networks_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double().eval()
    randomise(model)
    net = aw.Supernet(model, torch.randn(1, 3, 32, 32, dtype=torch.float64), nested=(0.5, 1.0))
    assert any(isinstance(module, Blocked) for module in net.blocked(1.0, smallest=0).modules())
    assert_blocked(net, torch.randn(2, 3, 32, 32, dtype=torch.float64))


@settings(
    derandomize=True, deadline=None, max_examples=3,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(
    model=networks,
    divisor=st.integers(1, 4),
    widths=st.lists(st.sampled_from([0.2, 0.3, 0.45, 0.6, 0.8]), min_size=1, max_size=3, unique=True).map(sorted),
    smallest=st.sampled_from([0, 500, 5_000]),
)
def test_random_networks(model: Network, divisor: int, widths: list[float], smallest: int) -> None:
    torch.manual_seed(0)
    model = model.double().eval()
    randomise(model)
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        try:
            net = aw.Supernet(model, x, divisor=divisor, nested=[*widths, 1.0])
        except (AnalysisError, WidthError):  # it cannot be nested, or two of the widths are the same
            return
    assert_blocked(net, x, smallest=smallest)


def test_channels_that_are_not_consecutive() -> None:
    net, x = made(Concatenated)
    mix = net.blocked(1.0, smallest=0).get_submodule("mix")
    assert isinstance(mix, Blocked)
    assert mix.read is not None
    torch.testing.assert_close(mix.weight, net.model.get_parameter("mix.weight").detach())
    torch.testing.assert_close(mix.bias, net.model.get_parameter("mix.bias").detach())
    assert_blocked(net, x)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(
    batch_first=st.booleans(),
    bias=st.booleans(),
    weights=st.sampled_from([None, "mean", "heads"]),
    causal=st.booleans(),
    padded=st.booleans(),
    batched=st.booleans(),
    cross=st.booleans(),
)
def test_attention(
    batch_first: bool, bias: bool, weights: str | None, causal: bool, padded: bool, batched: bool, cross: bool
) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, bias=bias, batch_first=batch_first, dtype=torch.float64).eval()
    if bias:
        nn.init.normal_(attention.in_proj_bias)
        nn.init.normal_(attention.out_proj.bias)
    shells = torch.arange(16).numpy() // 8
    projections, output = (LaterEntries(0, 1, rows, shells) for rows in (np.tile(shells, 3), shells))
    with torch.no_grad():
        projections.zero_(attention.in_proj_weight)
        output.zero_(attention.out_proj.weight)
    module = split_attention(attention, projections, output, 1, 0)
    assert module is not None
    assert all(isinstance(part, Blocked) for part in (module.query, module.key, module.value, module.out_proj))
    query, memory = torch.randn(3, 5, 16, dtype=torch.float64), torch.randn(3, 7 if cross else 5, 16).double()
    if not batched:
        query, memory = query[0], memory[0]
    elif not batch_first:
        query, memory = query.transpose(0, 1), memory.transpose(0, 1)
    padding = torch.zeros(3, memory.shape[-2 if batch_first or not batched else 0], dtype=torch.bool)
    padding[:, -2:] = True
    options = {
        "need_weights": weights is not None,
        "average_attn_weights": weights != "heads",
        "attn_mask": nn.Transformer.generate_square_subsequent_mask(5).bool() if causal and not cross else None,
        "is_causal": causal and not cross,
        "key_padding_mask": None if not padded else padding if batched else padding[0],
    }
    with torch.no_grad():
        wanted, got = attention(query, memory, memory, **options), module(query, memory, memory, **options)
    torch.testing.assert_close(got[0], wanted[0])
    assert (got[1] is None) == (wanted[1] is None)
    if wanted[1] is not None:
        torch.testing.assert_close(got[1], wanted[1])


def test_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 32, 1), nn.ConvTranspose2d(32, 32, 2, 2), nn.ReLU(), nn.Conv2d(32, 4, 1)
    model = nn.Sequential(*layers).double()
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    net = aw.Supernet(model, x, nested=(0.5, 1.0))
    assert isinstance(net.blocked(1.0, smallest=0)[1], Blocked)
    for width in net.nested:
        torch.testing.assert_close(net.blocked(width, smallest=0)(x), net.extract(width)(x))


def test_small_blocks_are_merged() -> None:
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    net = aw.Supernet(model, torch.randn(1, 4), nested=WIDTHS)

    def parts(smallest: int) -> list[tuple[int, ...]]:
        layer = net.blocked(1.0, smallest=smallest)[2]
        return [tuple(part.weight.shape) for part in layer.parts] if isinstance(layer, Blocked) else []

    assert parts(0) == [(8, 8), (8, 16), (8, 24), (8, 32)]
    assert parts(100) == [(16, 16), (16, 32)]
    assert parts(1000) == []


def test_a_blocked_network_shares_nothing_with_the_supernet() -> None:
    net, x = made()
    module = net.blocked(1.0, smallest=0)
    before = module(x)
    with torch.no_grad():
        for parameter in net.model.parameters():
            parameter.mul_(2)
    torch.testing.assert_close(module(x), before, rtol=0, atol=0)


class Reader(nn.Module):
    """Reads the weight of a layer in its forward, besides calling it or instead."""

    def __init__(self, *, calls: bool) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        if self.calls:
            x = self.second(x) + x
        return self.third(nn.functional.linear(x, self.second.weight, self.second.bias))


@pytest.mark.parametrize("calls", [True, False])
def test_a_layer_whose_weight_is_read(calls: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, dtype=torch.float64)
    net = aw.Supernet(Reader(calls=calls).double().eval(), x, nested=WIDTHS)
    for width in WIDTHS:
        module = net.blocked(width, smallest=0)
        assert isinstance(module.second, Blocked) == (calls and width > 0.25)
        torch.testing.assert_close(module(x), net.extract(width)(x))


def test_a_layer_that_is_used_in_two_places() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(32, 32)
    model = nn.Sequential(nn.Linear(4, 32), shared, nn.Sequential(nn.ReLU(), shared), nn.Linear(32, 3)).double().eval()
    x = torch.randn(2, 4, dtype=torch.float64)
    net = aw.Supernet(model, x, nested=WIDTHS)
    module = net.blocked(1.0, smallest=0)
    assert isinstance(module[1], Blocked)
    assert module[1] is module[2][1]
    assert_blocked(net, x)


def test_a_layer_with_a_hook_stays() -> None:
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    model[2].register_forward_hook(lambda *arguments: arguments[2] * 2)
    x = torch.randn(2, 4)
    net = aw.Supernet(model, x, nested=WIDTHS)
    module = net.blocked(1.0, smallest=0)
    assert type(module[2]) is nn.Linear
    torch.testing.assert_close(module(x), model(x))


class Class(nn.Module):
    """Asks for the class of a layer, and computes something else if it is another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        return self.third(x if type(self.second) is nn.Linear else 2 * x)


def test_a_network_that_asks_for_classes_is_refused() -> None:
    net = aw.Supernet(Class().eval(), torch.randn(2, 4), nested=WIDTHS)
    with pytest.raises(AnalysisError, match=r"Class computes something else.*net\.extract"):
        net.blocked(1.0, smallest=0)


def test_a_network_that_is_not_nested_is_refused() -> None:
    with pytest.raises(WidthError, match="not nested"):
        aw.Supernet(Concatenated(), torch.randn(1, 3, 8, 8)).blocked(1.0)


def test_a_blocked_network_can_be_captured() -> None:
    net, x = made()
    module = net.blocked(0.75, smallest=0)
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, (x,), dynamic_shapes=({0: batch},)).module()
    torch.testing.assert_close(program(x[:2]), net.extract(0.75)(x[:2]))


def test_save_of_its_state() -> None:
    net, x = made()
    module, other = net.blocked(1.0, smallest=0), net.blocked(1.0, smallest=0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(module.state_dict())
    torch.testing.assert_close(other(x), module(x))
