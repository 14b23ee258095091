"""Fixtures for all tests: seeds, the analysed models of the zoo, and a tiny data set."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import anywidth as aw
from anywidth.supernet import Statistics
from anywidth.widths import WidthSampler
from zoo import Case

# The models are tiny: a second thread costs more than it gives, and very much more where cores are shared.
torch.set_num_threads(1)

_PREPARED: dict[str, aw.Supernet] = {}


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def supernet_of() -> Iterator[Callable[[Case], aw.Supernet]]:
    """Supernets of the zoo, analysed once per run and put back to their first state after every test."""
    used: dict[str, Case] = {}

    def get(case: Case) -> aw.Supernet:
        if case.name not in _PREPARED:
            with warnings.catch_warnings():
                if case.warns:
                    warnings.filterwarnings("ignore", message="only .* of the MACs")
                _PREPARED[case.name] = aw.Supernet(case.model(), case.example(), divisor=2)
        used[case.name] = case
        return _PREPARED[case.name]

    yield get
    for name, case in used.items():
        net = _PREPARED[name]
        state = case.model().state_dict()
        net.model.load_state_dict(state)
        net.model.requires_grad_(True).zero_grad(set_to_none=True)
        net.model.eval()
        net._statistics = Statistics(net.model, net.effects.norms)
        net._cache.clear()
        net._alive.clear()
        net.sampler = WidthSampler(net.min_width)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 8x8 images that differ in where they are bright: 96 to train on, 30 to test on."""
    random = np.random.default_rng(0)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 3
        images = random.integers(0, 200, (count, 8, 8), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[label * 2 : label * 2 + 2] = np.maximum(image[label * 2 : label * 2 + 2], 90)
        return images, labels

    (x_train, y_train), (x_test, y_test) = part(96), part(30)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path
