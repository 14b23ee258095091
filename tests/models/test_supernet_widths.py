"""A subnet of the supernet is the dense network of that width: the same channels everywhere, so the same MACs."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.models import ShuffleNet, build_model, model_names
from fast import fast_and_slow

SIDE = 8
FAST = {"digits", "resnet8"}


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def supernet(model: nn.Module) -> aw.Supernet:
    """With the rounding, the lowest width and the frozen layers that the model's class asks for."""
    images = torch.randn(1, 1, SIDE, SIDE)
    rules = {name: getattr(model, name) for name in ("divisor", "min_width", "frozen")}
    return aw.Supernet(model, images, **rules)


@pytest.mark.parametrize("name", fast_and_slow(model_names(), FAST))
def test_subnets_have_the_channels_of_dense_networks(name: str) -> None:
    def dense(width: float = 1.0) -> nn.Module:
        return build_model(name, num_classes=5, input_shape=(1, SIDE, SIDE), width=width)

    net = supernet(dense())
    assert {group.name for group in net.groups if group.frozen} == {"classifier", *net.model.frozen}
    low = net.min_width
    for width in (low, 1.0, *(random.uniform(low, 1.0) for _ in range(4))):
        assert shapes(net.extract(width, calibrated=False)) == shapes(dense(width)), width


@pytest.mark.slow
def test_shufflenet_from_twice_the_width() -> None:
    """S-Nets (arXiv 1812.08928) train it at the widths 2, 1 and 0.5 of ShuffleNet's own."""
    net = supernet(ShuffleNet(width=2.0, num_classes=5, in_channels=1, downsamplings=3))
    for width in (1.0, 0.75, 0.5, 0.25):
        dense = ShuffleNet(width=2 * width, num_classes=5, in_channels=1, downsamplings=3)
        assert shapes(net.extract(width, calibrated=False)) == shapes(dense), width
