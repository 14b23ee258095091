"""Runs from Python: trained, resumed, opened and evaluated without the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from anywidth.core.errors import SettingsError, TrainingError
from anywidth.runs import (
    DataSettings,
    OptimizationSettings,
    OutputSettings,
    Reporter,
    TrainSettings,
    WidthSettings,
    open_run,
    resume,
    supernet_run,
    train,
)
from anywidth.runs.early_end import TrainingInterrupted
from anywidth.runs.options import flatten, with_options

DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def settings(tiny_data: Path, out: Path) -> TrainSettings:
    return TrainSettings(
        data=DataSettings(source=f"npz:{tiny_data}", batch_size=32),
        optimization=OptimizationSettings(epochs=1, lr=0.05, warmup_epochs=0),
        widths=WidthSettings(widths_per_step=2, evaluated=(0.25, 1.0)),
        output=OutputSettings(folder=out),
    )


class Told(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.trained: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    def training(self, label: str) -> list[Callback]:
        self.trained.append(label)
        return []


def test_a_run_is_interrupted_resumed_and_evaluated(tiny_data, tmp_path, monkeypatch, capsys) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    asked = settings(tiny_data, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(supernet_run, "calibrate", interrupt)
        with pytest.raises(TrainingInterrupted, match="has 1 of 1 epochs. Continue with"):
            train(asked)
    told = Told()
    result = resume(tmp_path / "run", reporter=told)
    assert [row.width for row in result.spectrum] == [0.25, 1.0]
    assert result.others is None
    assert all((tmp_path / "run" / name).exists() for name in result.files)
    assert (len(told.lines), told.trained) == (1, ["training"])
    opened = open_run(tmp_path / "run")
    assert list(opened.evaluate()) == list(result.spectrum)
    assert [row.width for row in opened.evaluate((0.5,))] == [0.5]
    assert capsys.readouterr() == ("", "")  # only a command prints
    with pytest.raises(TrainingError, match="already contains a run"):
        train(asked)
    with pytest.raises(TrainingError, match="is complete"):
        resume(tmp_path / "run")


def test_the_example_of_the_page_runs(tiny_data, tmp_path, monkeypatch) -> None:
    (code,) = re.findall(r"## From Python\n.*?```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    small = code.replace('"digits"', f'"npz:{tiny_data}"').replace("epochs=20", "epochs=1")
    assert small.count("npz:") == small.count("epochs=1") == 1
    exec(compile(small, str(DOCS), "exec"), {})
    assert (tmp_path / "runs" / "digits" / "spectrum.json").exists()


def test_an_unknown_option_is_an_error() -> None:
    with pytest.raises(SettingsError, match="unknown option 'epoch'; available: data, data_root, "):
        with_options(TrainSettings(), {"epoch": 3})


def test_every_option_has_one_owner() -> None:
    changed = with_options(TrainSettings(), {"epochs": 3, "data": "cifar10", "seed": 2, "widths": [0.5, 1.0]})
    assert (changed.optimization.epochs, changed.data.source, changed.seed) == (3, "cifar10", 2)
    assert changed.widths.evaluated == (0.5, 1.0)
    assert with_options(TrainSettings(), flatten(changed)) == changed


def test_what_belongs_to_two_owners_is_checked() -> None:
    with pytest.raises(SettingsError, match="give --hold-out 0.1"):
        TrainSettings(optimization=OptimizationSettings(keep="best"))
    with pytest.raises(SettingsError, match="too many networks"):
        TrainSettings(
            optimization=OptimizationSettings(compile=True), widths=WidthSettings(width_sampling="nonuniform")
        )


def test_random_numbers_are_left_to_the_run(tiny_data, tmp_path) -> None:
    torch.manual_seed(5)
    first = train(settings(tiny_data, tmp_path / "a"))
    torch.manual_seed(6)
    assert list(train(settings(tiny_data, tmp_path / "b")).spectrum) == list(first.spectrum)
