"""A tiny data set, and a finished run on it, for the tests of the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from anywidth.cli import main

Train = Callable[..., int]


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


@pytest.fixture(scope="session")
def train(tiny_data: Path) -> Train:
    """Runs `anywidth train` on the tiny data with a few fast settings; later arguments win."""

    def run(*arguments: str) -> int:
        fast = ["--epochs", "2", "--batch-size", "32", "--widths", "0.25,0.5,1.0", "--lr", "0.05", "--samples", "3"]
        return main(["train", "--data", f"npz:{tiny_data}", *fast, *arguments])

    return run


@pytest.fixture(scope="session")
def finished(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder; do not change it."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train("--out", str(out), "--individual", "2") == 0
    return out
