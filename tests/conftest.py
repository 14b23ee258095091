"""Fixtures for all tests: seeds, the analysed models of the zoo, and a tiny data set."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import anywidth as aw
from zoo import Case

# The models are tiny: a second thread costs more than it gives, and very much more where cores are shared.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def analysed() -> dict[str, aw.Supernet]:
    """Supernets of the zoo that were needed so far; nobody changes them."""
    return {}


@pytest.fixture
def supernet_of(analysed: dict[str, aw.Supernet]) -> Callable[[Case], aw.Supernet]:
    """Supernets of the zoo: analysed once per run, one copy for each test."""
    copies: dict[str, aw.Supernet] = {}

    def get(case: Case) -> aw.Supernet:
        if case.name not in analysed:
            with warnings.catch_warnings():
                if case.warns:
                    warnings.filterwarnings("ignore", message="only .* of the MACs")
                analysed[case.name] = aw.Supernet(case.model(), case.example(), divisor=2)
        if case.name not in copies:
            copies[case.name] = copy.deepcopy(analysed[case.name])
        return copies[case.name]

    return get


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
