"""A finished run on a tiny data set, for the tests of the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from anywidth.cli import main
from anywidth.core.inputs import normalise_inputs
from anywidth.groups import Analysis, analyse
from anywidth.groups.forward import attributes_of

Train = Callable[..., int]


@pytest.fixture(scope="session")
def analyses() -> dict[object, Analysis]:
    """What was found out about the networks that the commands built."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def analysed_once(analyses: dict[object, Analysis]) -> Iterator[None]:
    """Networks that are alike are analysed once: most of what a command does on tiny data, and tested elsewhere."""

    def once(model: nn.Module, inputs: Any, **options: Any) -> Analysis:
        shapes = [(name, tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()]
        tensors = [(tensor.shape, tensor.dtype) for tensor in normalise_inputs(inputs).tensors()]
        key = repr((model, attributes_of(model), model.training, shapes, tensors, options))
        if key not in analyses:
            analyses[key] = analyse(model, inputs, **options)
        return replace(analyses[key], plain=attributes_of(model))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anywidth.supernet.construct.analyse", once)
        patch.setattr("anywidth.supernet.checkpoint.analyse", once)
        yield


@pytest.fixture(scope="session")
def train(tiny_data: Path) -> Train:
    """Runs `anywidth train` on the tiny data with a few fast settings; later arguments win."""

    def run(*arguments: str) -> int:
        fast = [
            "--epochs",
            "2",
            "--batch-size",
            "32",
            "--widths",
            "0.25,0.5,1.0",
            "--lr",
            "0.05",
            "--widths-per-step",
            "3",
        ]
        return main(["train", "--data", f"npz:{tiny_data}", *fast, *arguments])

    return run


@pytest.fixture(scope="session")
def finished(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder; do not change it."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train("--out", str(out), "--individual", "2") == 0
    return out
