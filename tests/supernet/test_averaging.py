"""Averaging over input channels, against the same layers scaled by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.errors import WidthError
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
