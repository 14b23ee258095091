"""`anywidth train`: what it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from anywidth.cli import main

FILES = {
    "config.yaml", "data.json", "individual.csv", "individual.json", "metrics.csv", "spectrum.csv", "spectrum.json",
    "spectrum.png", "supernet.json", "supernet.safetensors",
}  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_writes_its_files(finished):
    assert {path.name for path in finished.iterdir()} == FILES
    assert (finished / "spectrum.png").read_bytes().startswith(b"\x89PNG")


def test_the_spectrum_has_the_asked_widths_narrowest_first(finished):
    found = rows(finished / "spectrum.csv")
    assert list(found[0]) == ["width", "macs", "params", "accuracy"]
    assert [float(row["width"]) for row in found] == [0.25, 0.5, 1.0]
    assert [int(row["macs"]) for row in found] == sorted(int(row["macs"]) for row in found)
    assert all(0 <= float(row["accuracy"]) <= 100 for row in found)
    exact = json.loads((finished / "spectrum.json").read_text())["rows"]
    assert [round(row["score"], 4) for row in exact] == [float(row["accuracy"]) for row in found]


def test_the_metrics_have_one_row_per_epoch(finished):
    found = rows(finished / "metrics.csv")
    assert list(found[0]) == ["epoch", "step", "lr", "loss_widest", "loss_narrowest", "seconds"]
    assert [(row["epoch"], row["step"]) for row in found] == [("1", "3"), ("2", "6")]


def test_individual_networks_have_the_cost_of_their_width(finished):
    alone = {row["width"]: row for row in rows(finished / "individual.csv")}
    whole = {row["width"]: row for row in rows(finished / "spectrum.csv")}
    assert list(alone) == ["0.25", "1.0"]
    for width, row in alone.items():
        assert (row["macs"], row["params"]) == (whole[width]["macs"], whole[width]["params"])


def test_the_config_is_resolved_and_trains_the_same_again(finished, tmp_path, tiny_data):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["data"] == f"npz:{tiny_data.resolve()}"
    assert (config["min_width"], config["workers"], config["widths"]) == (0.25, 0, [0.25, 0.5, 1.0])
    assert config["divisor"] is not None
    assert main(["train", "--config", str(finished / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    again, before = (load_file(path / "supernet.safetensors") for path in (tmp_path / "again", finished))
    assert again.keys() == before.keys()
    assert max(float((again[name].double() - before[name].double()).abs().max()) for name in again) == 0.0
    for name in ("spectrum.csv", "individual.csv"):
        assert (tmp_path / "again" / name).read_text() == (finished / name).read_text()


def test_the_table_and_the_place_of_the_results_are_printed(train, tmp_path, capsys):
    assert train("--out", str(tmp_path / "run"), "--epochs", "1", "--widths", "2") == 0
    out, error = capsys.readouterr()
    assert error == ""
    for text in ("width", "MACs", "parameters", "accuracy", "96 training and 30 test images", str(tmp_path / "run")):
        assert text in out


def test_a_run_gets_a_name_of_its_own(train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train("--epochs", "1", "--widths", "1") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("tiny-digits-20")


def test_options_reach_the_supernet(train, tmp_path):
    arguments = ["--min-width", "0.5", "--divisor", "8", "--frozen", "stem*", "--widths", "2", "--epochs", "1"]
    assert train("--out", str(tmp_path / "run"), *arguments, "--precision", "bf16") == 0
    saved = json.loads((tmp_path / "run" / "supernet.json").read_text())
    assert (saved["min_width"], saved["divisor"], saved["frozen"]) == (0.5, 8, ["stem*"])
    assert [row["width"] for row in rows(tmp_path / "run" / "spectrum.csv")] == ["0.5", "1.0"]


@pytest.mark.slow
def test_the_ablations_of_the_papers_are_options(train, tmp_path):
    other = tmp_path / "other"
    given = [
        "--always-include",
        "none",
        "--width-sampling",
        "nonuniform",
        "--temperature",
        "2",
        "--label-loss-weight",
        "0.5",
    ]
    given += ["--average-inputs"]
    assert train("--out", str(other), "--epochs", "1", *given) == 0
    config = yaml.safe_load((other / "config.yaml").read_text())
    assert [config[name] for name in ("always_include", "width_sampling", "temperature", "label_loss_weight")] == [
        "none",
        "nonuniform",
        2.0,
        0.5,
    ]
    assert config["average_inputs"]
    assert json.loads((other / "supernet.json").read_text())["average_inputs"]
    assert main(["train", "--config", str(other / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    assert rows(tmp_path / "again" / "spectrum.csv") == rows(other / "spectrum.csv")


@pytest.mark.slow
def test_switches_are_trained_saved_and_alone_evaluated(train, tmp_path, capsys):
    run = tmp_path / "run"
    given = ["--switches", "0.25,0.5,1.0", "--distillation", "none", "--widths", "16", "--individual", "1"]
    given += ["--epochs", "1"]
    assert train("--out", str(run), *given) == 0
    assert "switches 0.25, 0.5, 1, adding" in capsys.readouterr().out
    assert json.loads((run / "supernet.json").read_text())["switches"] == [0.25, 0.5, 1.0]
    for name in ("spectrum.csv", "individual.csv"):
        assert [row["width"] for row in rows(run / name)] == ["0.25", "0.5", "1.0"]
    assert main(["evaluate", str(run), "--out", str(tmp_path / "again.csv")]) == 0
    assert rows(tmp_path / "again.csv") == rows(run / "spectrum.csv")
    assert main(["evaluate", str(run), "--widths", "0.3"]) == 2
    assert "width 0.3 is not a switch of this network, whose switches are 0.25, 0.5, 1" in capsys.readouterr().err
    assert yaml.safe_load((run / "config.yaml").read_text())["switches"] == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nested-norm", "shell"], "--nested-norm applies to nested networks; give --nested too"),
        (["--temperature", "0"], "--temperature is 0; give a number above 0"),
        (["--label-loss-weight", "-1"], "--label-loss-weight is -1; give 0 or more"),
        (["--switches", "0.25,0.5"], "switches must be width 1.0 and at least one narrower"),
        (["--switches", "0.25,1", "--min-width", "0.5"], "leave out --min-width"),
        (["--switches", "0.25,1", "--widths", "0.3"], "width 0.3 is not a switch"),
        (["--model", "nonsense"], "unknown model 'nonsense'"),
        (["--data", "nonsense"], "unknown dataset 'nonsense'"),
        (["--data", "npz:missing.npz"], "missing.npz is not a file"),
        (["--widths", "0.1,0.5"], "width 0.1 is outside [0.25, 1]"),
        (["--min-width", "1.5"], "--min-width 1.5 is outside"),
        (["--frozen", "nonsense*"], "pattern 'nonsense*' matches no channel group"),
        (["--epochs", "0"], "--epochs is 0; give at least 1"),
        (["--lr", "0"], "--lr is 0; give a learning rate above 0"),
        (["--widths-per-step", "1"], "--widths-per-step is 1; give at least 2"),
        (["--warmup-epochs", "5"], "--warmup-epochs is 5; give 0 to 2"),
        (["--seed", "-1"], "seed is -1"),
        (["--precision", "16", "--device", "cpu"], "--precision 16 needs a GPU"),
    ],
)
def test_what_a_user_can_mend_is_one_line(train, tmp_path, capsys, arguments, message):
    assert train("--out", str(tmp_path / "run"), *arguments) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert "Traceback" not in out + error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("arguments", [["--epochs", "x"], ["--nonsense"], ["--widths", "a,b"], ["--device", "tpu"]])
def test_wrong_arguments_end_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", *arguments])
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_folder_with_results_is_left_alone(finished, train, capsys):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    assert train("--out", str(finished)) == 2
    assert f"{finished} already contains a run" in (error := capsys.readouterr().err)
    assert "--out DIR" in error
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_a_file_in_the_way_is_an_error(train, tmp_path, capsys):
    (tmp_path / "run").write_text("mine")
    assert train("--out", str(tmp_path / "run")) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_names_step_and_width(train, tmp_path, capsys):
    assert train("--out", str(tmp_path / "run"), "--lr", "1e20", "--warmup-epochs", "0") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: step ")
    assert "the loss is not finite at width" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_default_run_meets_its_promise(tmp_path):
    assert main(["train", "--out", str(tmp_path / "run")]) == 0
    accuracy = {float(row["width"]): float(row["accuracy"]) for row in rows(tmp_path / "run" / "spectrum.csv")}
    assert len(accuracy) == 16
    assert min(value for width, value in accuracy.items() if width >= 0.5) >= 94
    assert 82 <= accuracy[0.25] <= accuracy[1.0] - 4  # standard errors are 1.1 and 0.6 points


def test_the_full_width_is_calibrated_though_it_is_not_asked_for(train, finished, tmp_path) -> None:
    assert train("--out", str(tmp_path), "--widths", "0.25,0.5") == 0
    ours, theirs = (load_file(folder / "supernet.safetensors") for folder in (tmp_path, finished))
    names = [name for name in theirs if name.startswith("model/")]
    assert any("running_mean" in name for name in names)
    assert all(torch.equal(ours[name], theirs[name]) for name in names)


def test_one_class_is_refused(tmp_path, capsys) -> None:
    file = tmp_path / "one.npz"
    np.savez(file, x=np.zeros((10, 8, 8), np.uint8), y=np.zeros(10, np.int64))
    assert main(["train", "--data", f"npz:{file}", "--out", str(tmp_path / "run")]) == 2
    assert "has only one class" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_has_read_enough_is_no_interruption(tiny_data, tmp_path) -> None:
    command = f"{sys.executable} -m anywidth train --data npz:{tiny_data} --epochs 40 --out {tmp_path}/run | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=120)
    assert done.stderr == ""
    assert done.stdout.startswith("npz:")
