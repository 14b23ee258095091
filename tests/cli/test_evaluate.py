"""`anywidth evaluate` and `anywidth calibrate` on a finished run."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from anywidth.cli import main


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of the finished run that a test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def test_the_files_of_a_run_give_the_same_accuracy_to_the_last_image(finished, tmp_path, capsys):
    out = tmp_path / "again.json"
    assert main(["evaluate", str(finished), "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "calibrating" not in shown.out
    again, before = (json.loads(path.read_text())["rows"] for path in (out, finished / "spectrum.json"))
    assert again == before


@pytest.mark.slow
def test_a_new_process_finds_the_same_accuracy_to_the_last_image(finished, tmp_path):
    out = tmp_path / "again.json"
    command = [sys.executable, "-m", "anywidth", "evaluate", str(finished), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "calibrating" not in done.stdout
    again, before = (json.loads(path.read_text())["rows"] for path in (out, finished / "spectrum.json"))
    assert again == before


def test_uncalibrated_widths_are_calibrated_and_that_is_said(run, tmp_path, capsys):
    before = (run / "supernet.safetensors").read_bytes()
    assert main(["evaluate", str(run), "--widths", "0.5,0.75", "--out", str(tmp_path / "a.csv")]) == 0
    out = capsys.readouterr().out
    assert "calibrating batch norm at width 0.75 from the training images" in out
    first, *rest = (tmp_path / "a.csv").read_text().splitlines()
    assert first == "width,macs,params,accuracy"
    assert [line.split(",")[0] for line in rest] == ["0.5", "0.75"]
    assert (run / "supernet.safetensors").read_bytes() == before


def test_widths_by_pattern_are_calibrated_and_evaluated(run, tmp_path, capsys):
    (name,) = [group["name"] for group in json.loads((run / "supernet.json").read_text())["groups"]][:1]
    asked = f"1,{name}=0.5+*=0.75,0.5"
    assert main(["evaluate", str(run), "--widths", asked, "--out", str(tmp_path / "a.csv")]) == 0
    with (tmp_path / "a.csv").open() as file:
        found = {row["width"]: int(row["macs"]) for row in csv.DictReader(file)}
    assert list(found) == ["0.5", "1.0", f"{name}=0.5+*=0.75"]
    assert "calibrating batch norm at 1 nonuniform width from" in capsys.readouterr().out
    assert found["0.5"] < found[f"{name}=0.5+*=0.75"] < found["1.0"]
    capsys.readouterr()
    for wrong, message in (("nothing*=0.5", "matches no"), ("*=2", "2 is outside")):
        assert main(["evaluate", str(run), "--widths", wrong]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--widths", "*=half"])
    assert "cannot read widths by pattern from '*=half'" in capsys.readouterr().err


def test_every_stage_is_narrowed_alone_on_demand(run, tmp_path, capsys):
    asked = ["evaluate", str(run), "--widths", "1.0", "--nonuniform", "0.5", "--out", str(tmp_path / "a.csv")]
    assert main(asked) == 0
    with (tmp_path / "a.csv").open() as file:
        full, *others = csv.DictReader(file)
    names = [row["width"] for row in others]
    assert len(names) >= 3
    assert all(name.endswith(" at 0.5") for name in names)
    assert f"calibrating batch norm at {len(names)} nonuniform widths from" in capsys.readouterr().out
    assert all(int(row["macs"]) < int(full["macs"]) for row in others)
    for wrong, message in (("1.5", "between 0 and 1"), ("0.1", "1 times 0.1 0.1 is outside")):
        assert main(["evaluate", str(run), "--nonuniform", wrong]) == 2
        assert message in capsys.readouterr().err


def test_calibrate_adds_statistics_that_evaluate_uses(run, tmp_path, capsys):
    assert main(["evaluate", str(run), "--widths", "0.75", "--out", str(tmp_path / "a.csv")]) == 0
    assert main(["calibrate", str(run), "--widths", "0.5,0.75"]) == 0
    assert "calibrating batch norm at width 0.75" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--widths", "0.75", "--out", str(tmp_path / "b.csv")]) == 0
    assert "calibrating" not in capsys.readouterr().out
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    labels = [entry["label"] for entry in json.loads((run / "supernet.json").read_text())["statistics"].values()]
    assert sorted(labels) == [0.25, 0.5, 0.75]


def test_calibrate_again_changes_nothing(run, capsys):
    before = (run / "supernet.safetensors").read_bytes()
    assert main(["calibrate", str(run), "--widths", "0.5,1.0"]) == 0
    assert "already calibrated" in capsys.readouterr().out
    assert (run / "supernet.safetensors").read_bytes() == before


def damage_weights(run: Path) -> None:
    (run / "supernet.safetensors").write_bytes((run / "supernet.safetensors").read_bytes()[:1000])


def damage_config(run: Path) -> None:
    (run / "config.yaml").write_text("model: [")


def unknown_setting(run: Path) -> None:
    (run / "config.yaml").write_text("nonsense: 3")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_weights, "supernet.safetensors is damaged"),
        (damage_config, "config.yaml"),
        (unknown_setting, "nonsense"),
    ],
)
def test_a_damaged_run_is_one_line(run, capsys, damage, message):
    damage(run)
    assert main(["evaluate", str(run)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_a_width_out_of_range_is_an_error(finished, capsys, command):
    assert main([command, str(finished), "--widths", "0.1"]) == 2
    assert "width 0.1 is outside [0.25, 1]" in capsys.readouterr().err


def test_a_folder_without_a_run_is_an_error(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_out_needs_a_known_ending(finished, tmp_path, capsys):
    assert main(["evaluate", str(finished), "--out", str(tmp_path / "a.txt")]) == 2
    assert ".csv or .json" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_the_run_has_to_be_named(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, "--widths", "0.5"])
    assert caught.value.code == 2
    assert "run" in capsys.readouterr().err
