"""`anywidth train` started by torchrun: one run folder, one network, one line about an error."""

from __future__ import annotations

import contextlib
import csv
import os
import pty
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import two_started
from anywidth.cli import main
from anywidth.cli.torchrun import quiet_others
from anywidth.core.errors import SettingsError
from anywidth.runs.device import pick_device
from anywidth.runs.processes import Processes
from anywidth.training.epoch_checkpoint import EpochCheckpoint
from forked import Done, run_together

DRIVER = Path(two_started.__file__)
OPTIONS = ("--epochs", "3", "--batch-size", "12", "--widths", "0.25,1.0", "--lr", "0.05", "--hold-out", "0.2",
           "--average", "0.9", "--mixup", "0.2", "--individual", "1")  # fmt: skip


def by_torchrun(folder: Path, *arguments: str, fault: str = "none", **streams: Any) -> subprocess.Popen[str]:
    """`anywidth` in two processes that torchrun starts, which takes a minute of processor time."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(DRIVER)]
    return subprocess.Popen(
        [*command, fault, str(folder), *arguments], text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TERM": "xterm"}, **streams,
    )  # fmt: skip


def together(folder: Path, *arguments: str, fault: str = "none") -> Done:
    """`anywidth` in two processes that are started as torchrun does."""
    folder.mkdir(exist_ok=True)
    return run_together(two_started.program, fault, folder, *arguments, folder=folder)


def arguments_of(folder: Path, data: Path) -> tuple[str, ...]:
    return ("train", "--data", f"npz:{data}", "--out", str(folder / "run"), *OPTIONS)


def train(folder: Path, data: Path, *more: str, fault: str = "none") -> Done:
    return together(folder, *arguments_of(folder, data), *more, fault=fault)


def errors(done: Done) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith(("error:", "interrupted:"))]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("together")
    done = train(folder, tiny_data)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results after") == 1
    assert "2 processes with batches of 12: 24 images a step" in done.stdout
    return folder


@pytest.mark.slow
def test_two_processes_train_one_network_into_one_folder(unbroken: Path) -> None:
    first, second = (torch.load(unbroken / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    run = unbroken / "run"
    assert not {".lock", "checkpoints"} & {path.name for path in run.iterdir()}
    assert "torchrun --nproc-per-node 2 -m anywidth train --config" in (run / "config.yaml").read_text()
    rows = (run / "metrics.csv").read_text().splitlines()
    # 77 images are left for training, 38 for each process: 4 batches, the last of 2.
    assert [row.split(",")[:2] for row in rows[1:]] == [["1", "4"], ["2", "8"], ["3", "12"]]
    assert "accuracy@0.25" in rows[0]


@pytest.mark.slow
def test_it_trains_in_a_terminal(unbroken: Path, tiny_data: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = by_torchrun(tmp_path, *arguments_of(tmp_path, tiny_data), stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # how a terminal ends
            while piece := os.read(ours, 4096):
                shown.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert process.wait(timeout=200) == 0
    finally:
        process.kill()
        reader.join()
        os.close(ours)
    assert b"\x1b[" in b"".join(shown)  # there was a bar
    assert (tmp_path / "run" / "spectrum.csv").read_text() == (unbroken / "run" / "spectrum.csv").read_text()


@pytest.mark.slow
def test_every_test_image_was_counted_once(unbroken: Path, tmp_path: Path) -> None:
    run = unbroken / "run"
    assert main(["evaluate", str(run), "--widths", "0.25,1.0", "--out", str(tmp_path / "again.csv")]) == 0
    assert (tmp_path / "again.csv").read_text() == (run / "spectrum.csv").read_text()


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_weights(unbroken: Path, tiny_data: Path, tmp_path: Path) -> None:
    done = train(tmp_path, tiny_data, fault="interrupted")
    assert done.returncode != 0
    (line,) = errors(done)
    assert "has 1 of 3 epochs" in line
    assert f"torchrun --nproc-per-node 2 -m anywidth train --resume {tmp_path / 'run'}" in line

    done = together(tmp_path, "train", "--resume", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    ours, theirs = (load_file(folder / "run" / "supernet.safetensors") for folder in (tmp_path, unbroken))
    assert max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in theirs) <= 1e-6
    for name in ("spectrum.csv", "individual.csv"):
        assert (tmp_path / "run" / name).read_text() == (unbroken / "run" / name).read_text()


@pytest.mark.slow
def test_both_processes_stop_early_and_take_the_best_epoch(tiny_data: Path, tmp_path: Path) -> None:
    # Nothing gets better at such a learning rate, so the first epoch is the best, and the second the last.
    done = train(
        tmp_path, tiny_data, "--individual", "0", "--average", "0", "--epochs", "30", "--lr", "1e-12", "--keep", "best",
        "--early-stop", "1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["1", "4"], ["2", "8"]]


@pytest.mark.slow
def test_the_best_epoch_is_that_of_the_scores(tiny_data: Path, tmp_path: Path) -> None:
    given = ("--individual", "0", "--average", "0", "--epochs", "5")
    done = train(tmp_path / "long", tiny_data, *given, "--keep", "best", fault="all weights are lost after epoch 3")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "long" / "run" / "metrics.csv").open(newline="") as file:
        scores = [float(row["accuracy"]) for row in csv.DictReader(file)]
    best = scores.index(max(scores)) + 1
    assert best <= 3, scores
    # A constant learning rate would not do: the schedule of the same epochs, left when the best is over.
    assert train(tmp_path / "short", tiny_data, *given, fault=f"after epoch {best}").returncode != 0
    kept = torch.load(tmp_path / "short" / "run" / "checkpoints" / "supernet.ckpt", weights_only=True)["state_dict"]
    for rank in range(2):
        ours = torch.load(tmp_path / "long" / f"rank{rank}.pt", weights_only=True)
        assert all(torch.equal(value, kept[f"model.{name}"]) for name, value in ours.items())


@pytest.fixture(scope="module")
def searched(unbroken: Path) -> Path:
    """The result of a search."""
    file = unbroken / "search.json"
    assert (
        main(["search", str(unbroken / "run"), "--budgets", "60%", "--step-fraction", "0.5", "--out", str(file)]) == 0
    )
    return file


@pytest.mark.slow
def test_a_found_network_is_trained_by_two_processes(searched: Path, tmp_path: Path) -> None:
    given = ("train", "--from-search", str(searched), "--out", str(tmp_path / "whole" / "run"))
    done = together(tmp_path / "whole", *given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results after") == 1
    table = (tmp_path / "whole" / "run" / "comparison.csv").read_text()
    assert [row.partition(" ")[0].partition(",")[0] for row in table.splitlines()] == ["width", "found", "uniform"]

    out = tmp_path / "stopped" / "run"
    done = together(tmp_path / "stopped", *given[:-1], str(out), fault="the second network is interrupted")
    (line,) = errors(done)
    assert f"torchrun --nproc-per-node 2 -m anywidth train --resume {out}" in line
    done = together(tmp_path / "stopped", "train", "--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert (out / "comparison.csv").read_text() == table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("one fails", "error: cannot read image x.png; remove it"),
        ("all fail", "error: cannot read image x.png; remove it"),
        # torchrun sends the others SIGTERM, which may come before they notice.
        ("one is killed", ("error: another process of this training ended", "interrupted: while training")),
        ("one is ended", ("error: another process of this training ended", "interrupted: while training")),
    ],
)
def test_the_end_of_one_process_ends_all_with_one_line(
    tiny_data: Path, tmp_path: Path, fault: str, said: str | tuple[str, ...]
) -> None:
    assert_ends_with_one_line(train(tmp_path, tiny_data, fault=fault), tmp_path, said)


@pytest.mark.slow
def test_torchrun_shows_one_line(tiny_data: Path, tmp_path: Path) -> None:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = by_torchrun(tmp_path, *arguments_of(tmp_path, tiny_data), fault="one fails", **streams)
    output, error = process.communicate(timeout=240)
    done = Done(process.returncode, output, error)
    assert_ends_with_one_line(done, tmp_path, "error: cannot read image x.png; remove it")


def assert_ends_with_one_line(done: Done, folder: Path, said: str | tuple[str, ...]) -> None:
    assert done.returncode != 0
    (line,) = errors(done)
    assert line.startswith(said)
    assert "[rank" not in done.stderr  # how torch marks the traceback of a process
    assert (folder / "run" / "checkpoints" / "supernet.ckpt").exists()


@pytest.mark.slow
def test_what_fails_at_the_start_is_said_once(tmp_path: Path) -> None:
    for arguments in (["train", "--epochs", "0"], ["train", "--data", "npz:nowhere.npz"], ["evaluate", "run"]):
        done = together(tmp_path, *arguments)
        assert done.returncode != 0
        assert len(errors(done)) == 1
        assert "[rank" not in done.stderr


def test_processes_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Processes.of_environment().together
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for name, value in {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    found = Processes.of_environment()
    assert (found.rank, found.count, found.local_rank, found.per_machine) == (3, 4, 1, 2)
    assert found.command == "torchrun --nnodes 2 --nproc-per-node 2 -m anywidth"


def test_other_processes_are_quiet(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_others(Processes(rank=1, count=2)):
        print("hidden")
        print("hidden", file=sys.stderr)
    with quiet_others(Processes(rank=0, count=2)):
        print("shown")
    assert capfd.readouterr() == ("shown\n", "")


def test_fewer_gpus_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match=r"2 processes share 1 GPUs; .*--nproc-per-node 1"):
        pick_device("cuda", processes=Processes(count=2, per_machine=2))


def test_a_training_goes_on_with_as_many_processes(tmp_path: Path) -> None:
    checkpoint = EpochCheckpoint(tmp_path / "supernet.ckpt")
    checkpoint.load_state_dict(checkpoint.state_dict())
    with pytest.raises(Exception, match="with 2 processes, not 1; resume with 2"):
        checkpoint.load_state_dict({"processes": 2})
