"""Input rescaling, against the same layers scaled by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import NoEffectWarning, WidthError
from built_once import built_once
from proofs import assert_close


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.second = nn.Conv2d(8, 16, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.depthwise(F.relu(self.first(x))))))
        return self.head(F.relu(self.up(x)).mean((2, 3)))

    def by_hand(self, x: Tensor) -> Tensor:
        """Half of the channels everywhere, sums over them doubled."""
        x = F.relu(F.conv2d(x, self.first.weight[:4], self.first.bias[:4], padding=1))
        x = F.relu(F.conv2d(x, self.depthwise.weight[:4], self.depthwise.bias[:4], padding=1, groups=4))
        x = F.relu(F.conv2d(2 * x, self.second.weight[:8, :4], self.second.bias[:8]))
        x = F.relu(F.conv_transpose2d(2 * x, self.up.weight[:8, :4], self.up.bias[:4], stride=2))
        return F.linear(2 * x.mean((2, 3)), self.head.weight[:, :4], self.head.bias)


@pytest.fixture
@built_once
def net() -> aw.Supernet:
    return aw.Supernet(Net().double(), torch.randn(1, 3, 6, 6).double(), divisor=4, average_inputs=True)


def test_outputs_and_gradients_are_those_of_scaled_sums(net: aw.Supernet) -> None:
    x = torch.randn(2, 3, 6, 6).double()
    got = net.subnet(0.5)(x)
    got.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in net.model.named_parameters()}
    net.model.zero_grad()
    wanted = net.model.by_hand(x)
    wanted.square().sum().backward()
    assert_close(got, wanted, 1e-12)
    for name, parameter in net.model.named_parameters():
        assert_close(gradients[name], parameter.grad, 1e-10)
    assert not torch.allclose(aw.Supernet(net.model, x, divisor=4).subnet(0.5)(x), wanted)


def test_an_extracted_network_is_plain_and_does_the_same(net: aw.Supernet, tmp_path: Path) -> None:
    x = torch.randn(2, 3, 6, 6).double()
    dense = net.extract(0.5)
    assert not any(module._forward_pre_hooks for module in dense.modules())
    assert_close(dense(x), net.subnet(0.5)(x), 1e-12)
    again = aw.load(net.save(tmp_path / "saved"), Net().double())
    assert again.average_inputs
    assert_close(again.subnet(0.5)(x), net.subnet(0.5)(x), 1e-12)
    assert_close(net.extract(1.0)(x), net.model(x), 1e-12)


def test_shared_weights_are_refused() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 2))
    model[2].weight = model[0].weight
    with pytest.raises(WidthError, match="shared weight of 0"):
        aw.Supernet(model, torch.randn(1, 8), divisor=2, average_inputs=True)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(4, 32), nn.Linear(32, 5)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        nn.init.normal_(self.attention.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.head(self.attention(h, h, h, need_weights=False)[0])


class Standardised(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / self.weight.norm(), self.bias)


class Reading(nn.Module):
    """Its second layer's weight is used without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.head = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(self.enter(x).relu(), self.inner.weight).relu())


def sequence(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), layer)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        (lambda: sequence(nn.utils.parametrizations.weight_norm(nn.Linear(32, 5))), "on 2:"),
        (lambda: sequence(Standardised(32, 5)), "on 2:"),
        (Attending, "on attention.out_proj:"),
        (Reading, "on inner:"),
    ],
    ids=["weight norm", "standardised", "attention", "functional"],
)
def test_layers_whose_weight_takes_no_factor_sum_as_before(model: Callable[[], nn.Module], named: str) -> None:
    x = torch.randn(2, 6, 4)
    with pytest.warns(NoEffectWarning, match=named):
        net = aw.Supernet(model().eval(), x, average_inputs=True)
    with torch.no_grad():
        assert_close(net.extract(0.5)(x), net.subnet(0.5)(x), 1e-6)
