"""The comparison with other tools keeps to its time and budgets, resumes, and writes its table."""

from __future__ import annotations

import importlib
import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from anywidth.reproduce import PRESETS, Context

ROOT = Path(__file__).parents[2]
SETUP = {"data": "npz:cifar100.npz", "image_size": 16, "model": "resnet8", "seconds": 100.0}


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"peers.{name}")

    return load


@pytest.fixture
def archive(tmp_path) -> Path:
    random = np.random.default_rng(0)
    path = tmp_path / "random.npz"
    arrays = {}
    for part, count in (("train", 200), ("test", 40)):
        arrays[f"x_{part}"] = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 100
    np.savez(path, **arrays)
    return path


def record(arm: str, seed: int, accuracy: float, *, seconds: float = 101.0, **changes) -> dict:
    networks = [{"budget": 1e6 * k, "macs": 1e6 * k, "params": 1, "accuracy": accuracy + k} for k in (1, 2)]
    phases = [{"name": name, "epochs": 2.0 + seed, "seconds": 1.0} for name in ("a", "b")]
    return {
        "arm": arm, "seed": seed, "setup": SETUP, "networks": networks, "seconds": seconds, "phases": phases,
        "versions": {"torch": "2.15.0"}, "processor": "x86_64, 2 cores",
    } | changes  # fmt: skip


def write(folder: Path, *records: dict) -> Path:
    folder.mkdir()
    for each in records:
        (folder / f"{each['arm']}-{each['seed']}.json").write_text(json.dumps(each))
    return folder


def test_the_table_shows_means_over_seeds(peers, tmp_path) -> None:
    table = peers("table")
    folder = write(
        tmp_path / "a", record("x", 0, 30.0), record("x", 1, 32.0), record("y", 0, 20.0, seconds=110.0)
    )  # fmt: skip
    text = table.table(table.read(folder), {"y": "second", "x": "first", "z": "not run"})
    about, rows, late = text.split("\n\n")
    assert about.startswith(
        "npz:cifar100.npz at 16 pixels, `resnet8`, 100 s of processor time per arm and seed, seeds 0, 1"
    )
    assert rows.splitlines() == [
        "| top-1 accuracy (%), by budget of MACs | 1.00M | 2.00M | mean | epochs | seconds |",
        "|---|---|---|---|---|---|",
        "| second | 21.0 | 22.0 | 21.5 | 2 x 2.0 | 110 |",
        "| first | 32.0 ± 1.4 | 33.0 ± 1.4 | 32.5 ± 1.4 | 2 x 2.5 | 101 |",
    ]
    assert late == "Time more than 5% off: y with seed 0 (110 s)."


def test_the_table_goes_between_the_marks(peers, tmp_path) -> None:
    table = peers("table")
    page = tmp_path / "README.md"
    page.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    table.write(page, "new")
    table.write(page, "newer")
    assert page.read_text() == f"before\n{table.START}\n\nnewer\n\n{table.END}\nafter\n"
    page.write_text("no marks\n")
    with pytest.raises(ValueError, match="lacks the lines"):
        table.write(page, "new")


def test_the_page_has_the_marks(peers) -> None:
    table = peers("table")
    text = (ROOT / "benchmarks" / "peers" / "README.md").read_text()
    assert text.count(table.START) == text.count(table.END) == 1


def test_results_of_different_settings_are_not_mixed(peers, tmp_path) -> None:
    table = peers("table")
    other = record("y", 0, 1.0, setup=SETUP | {"seconds": 5.0})
    with pytest.raises(ValueError, match="different settings"):
        table.read(write(tmp_path / "a", record("x", 0, 1.0), other))
    with pytest.raises(ValueError, match="no results"):
        table.read(tmp_path)


class Clock:
    """Time that passes only in `work`."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_training_ends_with_its_time_though_steps_become_slower(peers, archive, tmp_path) -> None:
    clock, rates = Clock(), []
    setup = PRESETS["cifar"].changed(data=f"npz:{archive}", batch_size=50)
    context = Context(setup, 0, device=torch.device("cpu"), data_root=tmp_path, folder=tmp_path)
    job = peers("job").Job(context, 100.0, clock=clock)
    model = nn.Linear(1, 1)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        clock.now += 1.0 if clock.now < 50 else 1.5
        model(torch.ones(1, 1)).sum().backward()
        rates.append(model.weight.detach().clone())

    job.train("all", model, seconds=100.0, step=step)
    assert job.spent() == pytest.approx(100.0, rel=0.03)
    (phase,) = job.phases
    assert phase.epochs == pytest.approx(75 / 4, rel=0.05)  # four batches per epoch; seven steps were measurements
    changes = [float((b - a).abs()) for a, b in pairwise(rates)]
    assert changes[-1] < 0.1 * max(changes)  # the cosine has ended


def test_a_network_over_its_budget_is_an_error(peers) -> None:
    measure = peers("measure")
    network, example = nn.Conv2d(3, 2, 3, bias=False), torch.zeros(1, 3, 5, 5)
    macs = 3 * 2 * 9 * 9
    assert measure.macs_of(network, example) == macs
    whole = nn.Sequential(network, nn.Flatten())
    batches = [(torch.zeros(4, 3, 5, 5), torch.zeros(4).long())]
    assert measure.measured([whole], [macs], example, batches) == [
        {"budget": macs, "macs": macs, "params": 54, "accuracy": 100.0}
    ]
    with pytest.raises(measure.OverBudgetError, match="a network for 485 MACs has 486"):
        measure.measured([whole], [macs - 1], example, batches)


@pytest.mark.slow
def test_our_arms_run_in_small_and_finished_ones_are_kept(peers, archive, tmp_path, capsys) -> None:
    main = importlib.import_module("peers.__main__").main
    threads = torch.get_num_threads()
    options = ["--data", f"npz:{archive}", "--quick", "--seeds", "0", "--seconds", "2", "--out", str(tmp_path)]
    try:
        assert main([*options, "--arms", "nested,us-net,alone"]) == 0
        files = sorted((tmp_path / "quick").glob("*.json"))
        assert [file.name for file in files] == ["alone-0.json", "nested-0.json", "us-net-0.json"]
        for file in files:
            found = json.loads(file.read_text())
            assert len(found["networks"]) == 4
            assert all(0.9 * n["budget"] <= n["macs"] <= n["budget"] for n in found["networks"])
            assert all(phase["epochs"] > 0 for phase in found["phases"])
        before = [file.read_text() for file in files]
        assert main([*options, "--arms", "nested"]) == 0
        assert "nested, seed 0: finished before" in capsys.readouterr().out
        assert [file.read_text() for file in files] == before
        with pytest.raises(SystemExit, match="has other settings"):
            main([*options[:-3], "3", "--out", str(tmp_path), "--arms", "nested"])
        assert main(["table", "--out", str(tmp_path / "quick")]) == 0
        assert "| four networks trained alone |" in capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
