"""A small trained supernet for the tests of searches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from built_once import built_once

Batches = list[tuple[Tensor, Tensor]]


def toy_images(count: int, seed: int) -> Batches:
    """Three classes of noise with a bright band."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randn(count, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels, strict=True):
        image[:, 2 * int(label) : 2 * int(label) + 2] += 0.6
    return [(images, labels)]


def toy_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.Conv2d(16, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


@built_once
def toy_supernet() -> aw.Supernet:
    return aw.Supernet(toy_model(), torch.randn(1, 1, 8, 8), divisor=2)


@pytest.fixture(scope="session")
def trained_toy() -> dict[str, Tensor]:
    net = toy_supernet()
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.05, momentum=0.9)
    for step in range(30):
        optimizer.zero_grad()
        aw.sandwich_step(net, *toy_images(48, step)[0])
        optimizer.step()
    return net.model.state_dict()


@pytest.fixture
def toy(trained_toy: dict[str, Tensor]) -> aw.Supernet:
    """A supernet of three elastic groups that was trained a little."""
    net = toy_supernet()
    net.model.load_state_dict(trained_toy)
    return net


@pytest.fixture
def loader() -> Batches:
    return [batch for seed in (100, 101) for batch in toy_images(60, seed)]


@pytest.fixture
def held_out() -> Callable[[], Batches]:
    return lambda: toy_images(90, 200)
