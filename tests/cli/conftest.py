"""A finished run on a tiny data set, for the tests of the commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from anywidth.cli import main

Train = Callable[..., int]


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
