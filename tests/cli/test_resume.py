"""Runs that were interrupted, and how they go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from safetensors.torch import load_file

from anywidth.cli import main
from anywidth.runs import supernet_run
from anywidth.runs.open_run import open_run
from anywidth.runs.run_folder import RunFolder
from anywidth.training import epoch_checkpoint
from anywidth.training.epoch_checkpoint import EpochCheckpoint
from anywidth.training.lightning import PlainModule, SandwichModule

KEPT = ("spectrum.csv", "spectrum.json", "individual.csv", "individual.json")


def interrupt_at(monkeypatch: pytest.MonkeyPatch, kind: type[LightningModule], *, step: int) -> None:
    """Ctrl-C in the training step that follows `step` finished ones."""
    whole = kind.training_step

    def training_step(self: LightningModule, *arguments: object) -> object:
        if self.global_step == step:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(kind, "training_step", training_step)


def assert_same_run(left: Path, right: Path) -> None:
    ours, theirs = (load_file(path / "supernet.safetensors") for path in (left, right))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours) <= 1e-6
    for name in KEPT:
        assert (left / name).read_text() == (right / name).read_text()


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        pytest.param(60, "1 of 2 epochs.", marks=pytest.mark.slow),
        (0, "1 of 2 epochs and 2 batches of the next."),
    ],
)
def test_a_resumed_run_ends_like_an_unbroken_one(train, finished, tmp_path, monkeypatch, capsys, seconds, kept):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(epoch_checkpoint, "_SECONDS", seconds)
        patch.setattr(epoch_checkpoint, "_TIMES", seconds)
        interrupt_at(patch, SandwichModule, step=5)  # in the middle of the second of two epochs
        assert train("--out", str(out), "--individual", "2") == 130
    error = capsys.readouterr().err
    assert error.startswith("interrupted: ")
    assert kept in error
    assert f"anywidth train --resume {out}" in error
    assert {path.name for path in out.iterdir()} == {"checkpoints", "config.yaml", "data.json", "metrics.csv"}

    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(out, finished)
    assert not (out / "checkpoints").exists()
    assert len((out / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_a_nested_run_resumes(train, tmp_path, monkeypatch):
    unbroken, out = tmp_path / "unbroken", tmp_path / "run"
    options = ("--nested", "0.25,0.5,1.0")
    assert train("--out", str(unbroken), *options) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, SandwichModule, step=5)
        assert train("--out", str(out), *options) == 130
    assert main(["train", "--resume", str(out)]) == 0
    ours, theirs = (load_file(path / "supernet.safetensors") for path in (out, unbroken))
    assert max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in theirs) <= 1e-6
    assert (out / "spectrum.csv").read_text() == (unbroken / "spectrum.csv").read_text()
    net = open_run(out, device="cpu").net
    assert net.nested == (0.25, 0.5, 1.0)
    for name, later in net.shells.nesting.later.items():
        assert not any(bool(part.any()) for part in later.of(net.model.get_parameter(name)))


@pytest.mark.slow
def test_separate_networks_resume_too(train, finished, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, PlainModule, step=4)
        assert train("--out", str(out), "--individual", "2") == 130
    assert "while training the separate network of width 0.25" in capsys.readouterr().err
    assert (out / "spectrum.csv").exists()
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(out, finished)


@pytest.mark.slow
def test_a_run_interrupted_while_a_checkpoint_is_due_resumes(train, finished, tmp_path, monkeypatch):
    out = tmp_path / "run"

    def interrupted(self: EpochCheckpoint, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        whole(self, trainer, pl_module)

    whole = EpochCheckpoint.on_train_epoch_end
    with monkeypatch.context() as patch:
        patch.setattr(EpochCheckpoint, "on_train_epoch_end", interrupted)
        assert train("--out", str(out), "--individual", "2") == 130
    # The row of the second epoch is there but its weights are not.
    assert len((out / "metrics.csv").read_text().splitlines()) == 3
    assert main(["train", "--resume", str(out)]) == 0
    assert_same_run(out, finished)
    assert len((out / "metrics.csv").read_text().splitlines()) == 3


def test_an_interruption_in_the_first_epoch_leaves_nothing(train, tmp_path, monkeypatch, capsys):
    interrupt_at(monkeypatch, SandwichModule, step=1)
    before = signal.getsignal(signal.SIGINT)
    assert train("--out", str(tmp_path / "run")) == 130
    assert "Nothing was stored yet, so nothing was kept" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_an_unfinished_folder_is_offered_to_resume(train, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, SandwichModule, step=4)
        train("--out", str(out))
    capsys.readouterr()
    assert train("--out", str(out)) == 2
    error = capsys.readouterr().err
    assert "--out DIR" in error
    assert f"--resume {out}" in error

    (out / "checkpoints" / "supernet.ckpt").write_bytes(b"damaged")
    assert main(["train", "--resume", str(out)]) == 2
    assert "cannot continue from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "is complete, so there is nothing to resume"), (["--epochs", "3"], "nothing to resume")],
)
def test_a_complete_run_is_not_resumed(finished, capsys, arguments, message):
    assert main(["train", "--resume", str(finished), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_resume_takes_no_other_options(train, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, SandwichModule, step=4)
        train("--out", str(out))
    capsys.readouterr()
    assert main(["train", "--resume", str(out), "--epochs", "3"]) == 2
    assert "leave out all other options" in capsys.readouterr().err


def test_resume_needs_a_run(tmp_path, capsys):
    assert main(["train", "--resume", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_ctrl_c_in_a_process_says_how_to_go_on(tmp_path):
    out = tmp_path / "run"
    arguments = ["train", "--out", str(out), "--epochs", "500", "--widths", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "anywidth", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background may have switched it off.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (out / "checkpoints" / "supernet.ckpt").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert error.count("\n") == 1
    assert f"anywidth train --resume {out}" in error
    assert (out / "metrics.csv").exists()


@pytest.fixture
def stopped_after_training(train: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a run that is interrupted when its supernet has been trained."""

    def stopped(out: Path, *arguments: str) -> Path:
        def interrupt(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(supernet_run, "calibrate", interrupt)
            assert train("--out", str(out), *arguments) == 130
        return out

    return stopped


@pytest.mark.slow
def test_the_average_of_the_weights_is_that_of_an_unbroken_run(train, stopped_after_training, tmp_path) -> None:
    given = ("--average", "0.9", "--lr", "0.2")
    assert train("--out", str(tmp_path / "whole"), *given) == 0
    out = stopped_after_training(tmp_path / "stopped", *given)
    assert main(["train", "--resume", str(out)]) == 0
    ours, theirs = (load_file(path / "supernet.safetensors") for path in (out, tmp_path / "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (out / "spectrum.csv").read_text() == (tmp_path / "whole" / "spectrum.csv").read_text()


def test_a_training_that_stopped_early_does_not_go_on(stopped_after_training, tmp_path) -> None:
    out = stopped_after_training(
        tmp_path, "--epochs", "30", "--lr", "1e-9", "--hold-out", "0.2", "--early-stop", "1", "--average", "0"
    )
    rows = (out / "metrics.csv").read_text()
    assert main(["train", "--resume", str(out)]) == 0
    assert (out / "metrics.csv").read_text() == rows
    assert rows.count("\n") < 30


def test_initial_weights_are_taken_again_if_no_epoch_was_finished(train, finished, tmp_path, monkeypatch) -> None:
    given = ("--epochs", "1", "--lr", "1e-12", "--init", str(finished / "supernet.safetensors"), "--order", "none")
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, SandwichModule, step=1)
        patch.setattr(RunFolder, "abandon", lambda self: None)  # as if the process had been killed
        assert train("--out", str(out), *given) == 130
    assert main(["train", "--resume", str(out)]) == 0
    ours, theirs = (load_file(path / "supernet.safetensors") for path in (out, finished))
    names = [name for name in theirs if name.startswith("model/") and name.endswith("weight")]
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in names) < 1e-6
