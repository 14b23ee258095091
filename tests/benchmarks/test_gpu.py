"""The queue of GPU measurements records, skips, continues and stops, and its parts run in small on the CPU."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from anywidth.data import load_data

ROOT = Path(__file__).parents[2]
ABOUT = {"torch": "2.11.0", "device": "cpu"}


@pytest.fixture
def gpu_queue(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("gpu_queue")


@pytest.fixture
def gpu_data(gpu_queue) -> ModuleType:
    return importlib.import_module("gpu_data")


@pytest.fixture
def part(gpu_queue):
    def make(code: str, **changes: object):
        def read(text: str, _folder: Path) -> tuple[list[str] | None, None]:
            return text.split() or None, None

        given = {"name": "p", "command": [sys.executable, "-c", code], "needs": (), "read": read}
        return gpu_queue.Part(**(given | changes))

    return make


def queue(gpu_queue, out: Path, **changes):
    given = {"limit": 60.0, "about": ABOUT, "end": time.monotonic() + 1e9}
    return gpu_queue.Queue(out, **(given | changes))


def test_a_finished_part_is_skipped_and_a_failed_one_runs_again(gpu_queue, part, tmp_path) -> None:
    ours = queue(gpu_queue, tmp_path)
    failed = ours.run(part("print('why'); raise SystemExit(4)"))
    assert failed["status"] == "failed"
    assert failed["rc"] == 4
    assert failed["tail"] == "why\n"
    done = ours.run(part("print('now')"))
    assert done["status"] == "done"
    assert done["result"] == ["now"]
    assert done["seconds"] >= failed["seconds"]
    assert ours.run(part("print('later')")) == done == json.loads((tmp_path / "p.json").read_text())
    assert set(done) >= {"part", "seconds", "rc", "command", "device", "torch", "result"}


def test_a_part_over_its_limit_has_failed_unless_it_can_continue(gpu_queue, part, tmp_path) -> None:
    ours = queue(gpu_queue, tmp_path, limit=0.5)
    row = ours.run(part("import time; print('so far', flush=True); time.sleep(600)"))
    assert row["status"] == "failed"
    assert row["reason"] == "it takes more than 0.5 seconds"
    assert "so far" in row["tail"]
    endless = replace(part("import time; time.sleep(600)", name="q"), experiment="q", folder="q")
    assert ours.run(endless)["status"] == "cut off"
    assert queue(gpu_queue, tmp_path).run(part("print('rest')"))["status"] == "done"


def test_a_killed_queue_leaves_a_record_to_continue(gpu_queue, part, tmp_path) -> None:
    ours = queue(gpu_queue, tmp_path)
    file = tmp_path / "p.json"
    during = ours.run(part(f"import json; print(json.load(open({str(file)!r}))['status'].replace(' ', '-'))"))
    assert during["result"] == ["cut-off"]


def test_an_experiment_stops_after_its_seeds(gpu_queue, part, tmp_path, monkeypatch) -> None:
    code = """
import pathlib, sys, time
print("npz:data.npz, resnet18, 100 epochs, 3 seeds: 9 cells, 1 at a time", flush=True)
cells = pathlib.Path(sys.argv[-1], "cells"); cells.mkdir(parents=True)
for cell in ("us-net", "s-net", "alone"):
    point = '{"arms": {"US-Net": [{"x": 0.25, "y": 74.0}, {"x": 1.0, "y": 76.0}]}}' if cell == "us-net" else "{}"
    point = '{"arms": {"trained alone": [{"x": 0.25, "y": 73.0}]}}' if cell == "alone" else point
    (cells / f"{cell}-0.json").write_text(point if point != "{}" else '{"arms": {}}')
time.sleep(600)
"""
    individual = next(
        p for p in gpu_queue.parts(quick=False, data=[], out=tmp_path, seeds=3) if p.experiment == "individual"
    )
    command = [sys.executable, "-c", code, "--seeds", "3", str(tmp_path / "individual")]
    individual = replace(individual, command=command, needs=())
    row = queue(gpu_queue, tmp_path).run(individual)
    assert row["status"] == "done"
    assert row["result"]["us_net_mean"] == 75.0
    assert row["result"]["worst_difference"] == 1.0
    assert row["met"] is True


def test_missing_packages_and_data_are_named(gpu_queue, part, tmp_path) -> None:
    row = queue(gpu_queue, tmp_path).run(part("", needs=("torch", "no_such_module")))
    assert row["status"] == "skipped"
    assert row["reason"] == "missing: no_such_module"
    row = queue(gpu_queue, tmp_path, problem="no images").run(part("", name="q", data=True))
    assert row["reason"] == "no images"
    assert "no images" in gpu_queue.summary([row])
    assert gpu_queue.packages(["yaml", "torch"]) == "pyyaml, torch"


def test_a_pack_contains_records_without_checkpoints(gpu_queue, part, tmp_path) -> None:
    queue(gpu_queue, tmp_path).run(part("print(1)"))
    (tmp_path / "individual" / "cells").mkdir(parents=True)
    (tmp_path / "individual" / "cells" / "us-net-0.json").write_text("{}")
    (tmp_path / "individual" / "supernet.ckpt").write_text("large")
    gpu_queue.pack(tmp_path, tmp_path / "all.tar.gz")
    with tarfile.open(tmp_path / "all.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["individual/cells/us-net-0.json", "p.json", "p.log"]


def test_archives_are_joined(gpu_data, tmp_path) -> None:
    folder, out = tmp_path / "parts", tmp_path / "out"
    folder.mkdir()
    x, y = np.arange(12 * 4 * 4 * 3, dtype=np.uint8).reshape(12, 4, 4, 3), np.arange(12) % 3
    np.savez(folder / "a.npz", x_train=x[:5], y_train=y[:5])
    np.savez(folder / "b.npz", x_train=x[5:], y_train=y[5:])
    with pytest.raises(gpu_data.DataMissingError, match="no file in .* contains x_test or y_test"):
        gpu_data.options(f"npz:{folder}", root=tmp_path, out=out)
    np.savez(folder / "c.npz", x_test=x, y_test=y)
    given = gpu_data.options(f"npz:{folder}", root=tmp_path, out=out)
    assert given == ["--data", f"npz:{out / 'data.npz'}"]
    with np.load(out / "data.npz") as joined:
        assert (joined["x_train"] == x).all()
        assert (joined["y_train"] == y).all()
    assert len(load_data(given[1]).train) == 12  # type: ignore[arg-type]
    np.savez(folder / "d.npz", x_train=x[:1])
    with pytest.raises(gpu_data.DataMissingError, match="13 images in x_train but 12 labels"):
        gpu_data.options(f"npz:{folder}", root=tmp_path, out=out)


def test_missing_data_is_explained(gpu_data, tmp_path) -> None:
    with pytest.raises(gpu_data.DataMissingError, match=r"nowhere.npz does not exist; give --data npz:FILE"):
        gpu_data.options(f"npz:{tmp_path / 'nowhere.npz'}", root=tmp_path, out=tmp_path)
    with pytest.raises(gpu_data.DataMissingError, match="contains no .npz files"):
        gpu_data.options(f"npz:{tmp_path}", root=tmp_path, out=tmp_path)


def test_commands_fit_the_benchmarks(gpu_queue, tmp_path) -> None:
    """The options of every benchmark exist; a GPU is only needed afterwards."""
    for part in gpu_queue.parts(quick=False, data=[], out=tmp_path, seeds=3):
        if part.name.startswith("step-"):
            text = (ROOT / part.command[1]).read_text()
            assert all(f'"{word}"' in text for word in part.command if word.startswith("--")), part.name


@pytest.mark.slow
def test_parts_run_in_small(tmp_path, gpu_queue) -> None:
    every = gpu_queue.parts(quick=True, data=[], out=tmp_path, seeds=1)
    wanted = ["reproduce-individual"]  # all parts take minutes
    assert {p.name for p in every} > set(wanted)
    command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "--quick", "--out", str(tmp_path), "--only"]
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, ",".join(wanted)],
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in wanted:
        row = json.loads((tmp_path / f"{name}.json").read_text())
        assert (row["status"], row["rc"]) == ("done", 0), name
        assert row["result"], name
    again = subprocess.run(
        [*command, wanted[0]], capture_output=True, text=True, check=False, timeout=60, env=environment
    )
    assert again.returncode == 0, again.stdout + again.stderr
