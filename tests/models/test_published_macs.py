"""The MACs of the papers' tables, counted by PyTorch's own FLOP counter on tensors without data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anywidth.models import MNasNet, MobileNetV1, MobileNetV2, ResNet, ShuffleNet
from fast import fast_and_slow

MOBILENET_V1 = """568 543 517 490 466 443 421 389 366 345 325 306 287 267 249 232 217 201 177 162 149 136 124 114 100
    89 80 71 64 48 41"""
MOBILENET_V2 = """300 299 284 274 269 268 254 235 222 213 209 185 173 165 161 161 151 150 106 100 97 96 88 88 80 80
    59"""
"""MACs in whole millions, cut off, from width 1.0 down by 0.025 (US-Nets, arXiv 1903.05134)."""


def published(table: str) -> list[tuple[float, int]]:
    return [((1000 - 25 * i) / 1000, int(number)) for i, number in enumerate(table.split())]


def by_width(table: str) -> list[Any]:
    """The rows as parameters; most of them are slow."""
    return fast_and_slow(published(table), {1.0, 0.7, 0.4}, name=lambda row: row[0])


def count_products(model: nn.Module, side: int) -> float:
    """MACs of convolutions and linear layers alone; the model is on the meta device."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops() / 2


def count_macs(model: nn.Module, side: int, *also: type[nn.Module]) -> float:
    """The same, and one MAC per input element of the average pool and of `also`."""
    elements = []

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        elements.append(inputs[0].numel())

    for module in model.modules():
        if isinstance(module, (nn.AdaptiveAvgPool2d, *also)):
            module.register_forward_hook(note)
    products = count_products(model, side)
    assert elements
    return products + sum(elements)


@pytest.mark.parametrize(("width", "millions"), by_width(MOBILENET_V1))
def test_mobilenet_v1(width: float, millions: int) -> None:
    with torch.device("meta"):
        model = MobileNetV1(width=width)
    assert int(count_macs(model, 224) / 1e6) == millions


@pytest.mark.parametrize(("width", "millions"), by_width(MOBILENET_V2))
def test_mobilenet_v2(width: float, millions: int) -> None:
    with torch.device("meta"):
        model = MobileNetV2(width=width)
    assert int(count_macs(model, 224) / 1e6) == millions


def test_tables_are_whole() -> None:
    v1, v2 = published(MOBILENET_V1), published(MOBILENET_V2)
    assert (len(v1), v1[-1]) == (31, (0.25, 41))
    assert (len(v2), v2[-1]) == (27, (0.35, 59))


@pytest.mark.parametrize(
    ("width", "macs", "digits"), [(1, 4.1e9, -8), (0.75, 2.3e9, -8), (0.5, 1.1e9, -8), (0.25, 278e6, -6)]
)
def test_resnet50(width: float, macs: float, digits: int) -> None:
    with torch.device("meta"):
        model = ResNet(50, width=width)
    assert round(count_macs(model, 224), digits) == macs


@pytest.mark.parametrize(("width", "millions"), [(1.0, 556), (0.25, 35)])
def test_resnet18_on_cifar100(width: float, millions: int) -> None:
    """Published as 35-556M, which counts one MAC per element that a batch norm puts out; without, 555.5M."""
    with torch.device("meta"):
        model = ResNet(18, stem="cifar", width=width, num_classes=100)
    assert round(count_macs(model, 32, nn.BatchNorm2d) / 1e6) == millions


def test_mobilenet_v2_on_cifar10() -> None:
    """AutoSlim (arXiv 1903.11728) gives 88M."""
    with torch.device("meta"):
        model = MobileNetV2(num_classes=10, downsamplings=3)
    assert round(count_macs(model, 32) / 1e6) == 88


@pytest.mark.parametrize(("depth", "millions"), [(20, 40.81), (56, 125.75)])
def test_resnets_on_cifar10(depth: int, millions: float) -> None:
    """Of the table of github.com/chenyaofo/CIFAR-pretrained-models: convolutions and linear layers alone."""
    with torch.device("meta"):
        model = ResNet(depth, num_classes=10)
    assert round(count_products(model, 32) / 1e6, 2) == millions


@pytest.mark.parametrize(("depth", "giga"), [(18, 1.814), (50, 4.089)])
def test_resnets_on_imagenet(depth: int, giga: float) -> None:
    """Of torchvision's tables of models: convolutions and linear layers alone."""
    with torch.device("meta"):
        model = ResNet(depth)
    assert round(count_products(model, 224) / 1e9, 3) == giga


@pytest.mark.parametrize(("width", "millions"), [(2.0, 524), (1.0, 138), (0.5, 38)])
def test_shufflenet(width: float, millions: int) -> None:
    """S-ShuffleNet of S-Nets (arXiv 1812.08928), table of models at github.com/JiahuiYu/slimmable_networks."""
    with torch.device("meta"):
        model = ShuffleNet(width=width)
    assert round(count_macs(model, 224) / 1e6) == millions


@pytest.mark.parametrize(("width", "millions"), [(2.0, 524), (1.0, 137), (0.5, 38)])
def test_shufflenet_without_pool(width: float, millions: int) -> None:
    """ShuffleNet (arXiv 1707.01083), three groups: tables 1 (1x) and 8 (2x, 0.5x).

    The 292M and 13M that its tables 5 and 2 give for 1.5x and 0.25x are 300M and 12M here; the paper does not tell
    the channels of these two.
    """
    with torch.device("meta"):
        model = ShuffleNet(width=width)
    assert round(count_products(model, 224) / 1e6) == millions


@pytest.mark.parametrize(("width", "giga"), [(1.3, 0.526), (1.0, 0.314), (0.75, 0.215), (0.5, 0.104)])
def test_mnasnet(width: float, giga: float) -> None:
    """Of torchvision's tables of models: convolutions and linear layers alone."""
    with torch.device("meta"):
        model = MNasNet(width=width)
    assert round(count_products(model, 224) / 1e9, 3) == giga


def test_mnasnet_of_autoslim() -> None:
    """AutoSlim (arXiv 1903.11728) gives 317M for MNasNet in its abstract, without saying what is counted."""
    with torch.device("meta"):
        model = MNasNet()
    assert count_macs(model, 224) == pytest.approx(317e6, rel=0.01)
