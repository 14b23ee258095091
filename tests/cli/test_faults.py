"""What happens to a run when something breaks; the table in docs/training.md says what is tried here."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from anywidth.batchnorm import calibrate
from anywidth.cli import main
from anywidth.runs import supernet_run
from anywidth.runs.run_folder import RunFolder
from anywidth.training.lightning import PlainModule, SandwichModule
from forked import Forked


def start(out: Path, *arguments: str) -> Forked:
    """A run in another process, once it has finished an epoch."""
    command = ("train", "--out", str(out), "--epochs", "500", "--widths", "2", *arguments)
    process = Forked(main, command, folder=out.parent)
    # A slow machine writes a state in the middle of the first epoch too.
    while not (epochs(out) and (out / "checkpoints" / "supernet.ckpt").exists()) and process.poll() is None:
        time.sleep(0.05)
    return process


def epochs(out: Path) -> int:
    file = out / "metrics.csv"
    return len(file.read_text().splitlines()) - 1 if file.exists() else 0


@pytest.mark.slow
def test_sigterm_is_like_ctrl_c(tmp_path) -> None:
    out = tmp_path / "run"
    process = start(out)
    process.send_signal(signal.SIGTERM)
    done = process.done()
    assert done.returncode == 130, done.stderr
    assert f"anywidth train --resume {out}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (out / ".lock").exists()


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_nothing_that_was_written(tmp_path) -> None:
    out = tmp_path / "run"
    for number in range(4):
        process = start(out) if number == 0 else _resumed(out)
        rows = epochs(out)
        while epochs(out) < rows + number:
            assert process.poll() is None
            time.sleep(0.05)  # reading the file all the time would take a core
        process.send_signal(signal.SIGKILL)
        assert process.done().returncode == -signal.SIGKILL
        state = torch.load(out / "checkpoints" / "supernet.ckpt", weights_only=True)
        # The state is written before the row of its epoch, or after it: at most one epoch lies between them.
        assert abs(state["epoch"] + 1 - epochs(out)) <= 1
        assert state["state_dict"]


def _resumed(out: Path) -> Forked:
    before = (out / "checkpoints" / "supernet.ckpt").stat().st_mtime_ns
    process = Forked(main, ("train", "--resume", str(out)), folder=out.parent)
    while (out / "checkpoints" / "supernet.ckpt").stat().st_mtime_ns == before:
        assert process.poll() is None
        time.sleep(0.05)
    return process


@contextmanager
def room() -> Iterator[Callable[[], None]]:
    """What makes the disk full, as far as this process can tell: within it, files may not grow any more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, kept)


@pytest.mark.slow
def test_a_full_disk_at_the_end_keeps_what_was_trained(train, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "run"
    with room() as fill, monkeypatch.context() as patch:

        def full(*arguments: Any, **options: Any) -> None:
            calibrate(*arguments, **options)
            fill()

        patch.setattr(supernet_run, "calibrate", full)
        assert train("--out", str(out)) == 2
    error = capsys.readouterr().err
    assert f"cannot write {out / 'supernet.safetensors'}" in error
    assert f"has 2 of 2 epochs. Continue with: anywidth train --resume {out}" in error
    assert error.count("\n") == 1
    assert not (out / "supernet.safetensors").exists()
    assert main(["train", "--resume", str(out)]) == 0
    assert (out / "spectrum.csv").exists()


def test_a_full_disk_keeps_the_last_epoch(train, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "run"
    step = SandwichModule.training_step
    with room() as fill:

        def training_step(self: SandwichModule, batch: object, index: int) -> object:
            if self.current_epoch == 1:
                fill()
            return step(self, batch, index)

        monkeypatch.setattr(SandwichModule, "training_step", training_step)
        assert train("--out", str(out), "--epochs", "3") == 2
    error = capsys.readouterr().err
    assert "cannot write" in error
    assert f"has 1 of 3 epochs. Continue with: anywidth train --resume {out}" in error
    assert torch.load(out / "checkpoints" / "supernet.ckpt", weights_only=True)["epoch"] == 0
    monkeypatch.setattr(SandwichModule, "training_step", step)
    assert main(["train", "--resume", str(out)]) == 0
    assert epochs(out) == 3


def _may_mount() -> bool:
    done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not _may_mount(), reason="mounting needs a user namespace; full disks are simulated above")
def test_a_disk_that_is_really_full(train, tiny_data, tmp_path, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", lambda self: None)
        assert train("--out", str(tmp_path / "elsewhere")) == 0
    size = (tmp_path / "elsewhere" / "checkpoints" / "supernet.ckpt").stat().st_size
    disk = tmp_path / "disk"
    disk.mkdir()
    # There is room for the state of one epoch and not for a second one beside it.
    script = f"""
        mount -t tmpfs -o size={int(1.7 * size)} none {disk}
        {sys.executable} -m anywidth train --data npz:{tiny_data} --out {disk}/run --epochs 3 --widths 0.25,1.0
        echo "code $?"; ls -A {disk}/run {disk}/run/checkpoints
        mount -o remount,size={8 * size} {disk}
        {sys.executable} -m anywidth train --resume {disk}/run
        echo "code $?"; wc -l {disk}/run/metrics.csv
    """
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    first, _, second = done.stdout.partition("code 2")
    assert "results after" not in first
    assert second.index("supernet.ckpt") < second.index("results after") < second.index("code 0")
    assert second.split()[-2] == "4"  # a head and three epochs
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot write")
    assert f"has 1 of 3 epochs. Continue with: anywidth train --resume {disk}/run" in line


def test_a_folder_that_another_run_writes_into_is_left_alone(train, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with FileLock(out / ".lock"):
        assert train("--out", str(out)) == 2
    assert "another run is writing to" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] in ([".lock"], [])


def poisoned(monkeypatch: pytest.MonkeyPatch, steps: set[int], module: type[Any] = SandwichModule) -> None:
    """Batches with NaN at some steps of a kind of training, counted from 1."""
    step, counted = module.training_step, [0]

    def broken(self: Any, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> object:
        counted[0] += 1
        images, labels = batch
        return step(self, (images * torch.nan if counted[0] in steps else images, labels), index)

    monkeypatch.setattr(module, "training_step", broken)


def test_a_loss_that_is_not_finite_stops_with_its_step_and_keeps_the_epochs_before(
    train, tmp_path, monkeypatch, capsys
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        poisoned(patch, {5})  # three steps an epoch
        assert train("--out", str(out), "--epochs", "3") == 2
    error = capsys.readouterr().err
    assert "step 5, epoch 2: the loss is not finite at width" in error
    kept = out / "checkpoints" / "supernet.ckpt"
    assert f"{kept} has 1 of 3 epochs. Continue with: anywidth train --resume {out}" in error
    assert error.count("\n") == 1
    assert kept.is_file()
    assert main(["train", "--resume", str(out)]) == 0
    assert epochs(out) == 3


def test_a_loss_that_is_not_finite_in_the_first_epoch_keeps_nothing(train, tmp_path, monkeypatch, capsys) -> None:
    poisoned(monkeypatch, {2})
    assert train("--out", str(tmp_path / "run")) == 2
    assert "check the data for NaN. Nothing was stored yet, so nothing was kept" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_separate_network_that_stops_names_its_own_checkpoint(train, tmp_path, monkeypatch, capsys) -> None:
    out, kept = tmp_path / "run", tmp_path / "run" / "checkpoints" / "individual-1.0.ckpt"
    with monkeypatch.context() as patch:
        poisoned(patch, {8}, PlainModule)  # three steps an epoch
        assert train("--out", str(out), "--individual", "1", "--epochs", "4") == 2
    error = capsys.readouterr().err
    assert f"{kept} has 2 of 4 epochs. Continue with: anywidth train --resume {out}" in error
    assert error.count("\n") == 1
    assert main(["train", "--resume", str(out)]) == 0


def test_no_memory_on_the_device_is_one_line_and_keeps_the_epochs_before(train, tmp_path, monkeypatch, capsys) -> None:
    out, steps = tmp_path / "run", [0]
    step = SandwichModule.training_step

    def broken(self: SandwichModule, *arguments: object) -> object:
        steps[0] += 1
        if steps[0] == 5:  # three steps an epoch
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SandwichModule, "training_step", broken)
        assert train("--out", str(out), "--epochs", "3") == 2
    error = capsys.readouterr().err
    assert "out of memory: train with smaller batches (--batch-size)" in error
    assert "has 1 of 3 epochs" in error
    assert error.count("\n") == 1
    assert main(["train", "--resume", str(out)]) == 0
    assert epochs(out) == 3


def test_steps_that_are_not_finite_are_left_out_when_asked(train, tmp_path, monkeypatch, capsys) -> None:
    poisoned(monkeypatch, {2, 4, 5, 6})
    assert train("--out", str(tmp_path / "run"), "--epochs", "3", "--skip") == 0
    assert "4 steps were skipped" in capsys.readouterr().err
    rows = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]]
    assert [row[:2] for row in rows] == [["1", "2"], ["2", "2"], ["3", "5"]]
    assert [row[3] == "nan" for row in rows] == [False, True, False]


def test_too_many_in_a_row_stop_all_the_same(train, tmp_path, monkeypatch, capsys) -> None:
    poisoned(monkeypatch, set(range(4, 100)))
    assert train("--out", str(tmp_path / "run"), "--epochs", "40", "--skip") == 2
    assert "after 20 skipped steps" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_data_worker_that_dies_is_told_and_the_run_goes_on_later(tmp_path) -> None:
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(40):
            pixels = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    out = tmp_path / "run"
    process = start(out, "--data", f"imagefolder:{tmp_path / 'images'}", "--workers", "2", "--batch-size", "8")
    killed = False
    while process.poll() is None:
        for child in _children(process.pid):
            os.kill(child, signal.SIGKILL)
            killed = True
        time.sleep(0.05)
    done = process.done()
    assert killed
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "a process that reads images died" in done.stderr
    assert f"Continue with: anywidth train --resume {out}" in done.stderr
    assert epochs(out) >= 1


def _children(pid: int) -> list[int]:
    """Processes that a process forked to read images."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found
