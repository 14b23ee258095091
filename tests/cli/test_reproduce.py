"""`anywidth reproduce`: lists, runs, goes on after an interruption, and refuses what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR100

import anywidth.reproduce.runner as runner
from anywidth.cli import main
from anywidth.reproduce import experiment_names, load_experiment
from small_sets import write_cifar, write_fashion

NAME = "inplace-distillation"


@pytest.fixture
def asked(tiny_data: Path, tmp_path: Path) -> list[str]:
    return [
        "reproduce", NAME, "--data", f"npz:{tiny_data}", "--epochs", "1", "--seeds", "2", "--jobs", "1",
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip


def test_list_names_all(capsys) -> None:
    assert main(["reproduce", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in experiment_names())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "no experiment was given"),
        (["sandwiches"], "there is no experiment 'sandwiches'; there are "),
        (["sandwich", "--seeds", "0"], "--seeds is 0"),
        (["sandwich", "--model", "resnet19"], "unknown model 'resnet19'"),
        (["sandwich", "--data", "npz:nowhere.npz"], "nowhere.npz"),
    ],
)
def test_what_does_not_fit_is_told(wrong, message, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *wrong, "--jobs", "1"]) == 2
    assert message in capsys.readouterr().err


def test_an_interrupted_experiment_goes_on(asked, tmp_path, monkeypatch, capsys) -> None:
    out, run_cell, calls = tmp_path / "out", runner._run_cell, []
    asked = [*asked, "--seeds", "1"]

    def stop_at_the_third(*arguments):
        calls.append(arguments[1:3])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_cell(*arguments)

    monkeypatch.setattr(runner, "_run_cell", stop_at_the_third)
    assert main(asked) == 130
    assert "run the same command to continue" in capsys.readouterr().err
    assert len(list((out / "cells").glob("*.json"))) == 3  # two cells and the settings
    kept = {path: path.stat().st_mtime_ns for path in (out / "cells").glob("*.json") if path.name != "setup.json"}
    assert main([*asked, "--epochs", "2"]) == 2
    assert "with other settings" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert main(asked) == 0
    assert len(calls) == 3 + 2
    assert not (out / "cells").exists()
    content = json.loads((out / "result.json").read_text())
    assert {len(point["y"]) for points in content["arms"].values() for point in points} == {1}
    capsys.readouterr()
    assert main(asked) == 2
    assert "already contains these results" in capsys.readouterr().err


@pytest.mark.slow
def test_a_seed_gives_the_same_numbers_in_any_process(asked, tmp_path) -> None:
    assert main(asked) == 0
    here = json.loads((tmp_path / "out" / "result.json").read_text())["arms"]
    there = tmp_path / "there"
    assert main([*asked[:-1], str(there), "--jobs", "2"]) == 0
    assert json.loads((there / "result.json").read_text())["arms"] == here


@pytest.mark.slow
def test_the_full_setting_runs_an_epoch_on_the_cpu(tmp_path, monkeypatch) -> None:
    """CIFAR-100's format, bfloat16, and the supernet, the switches and the networks alone of the headline.

    ResNet-8 stands for ResNet-18: some processors have no instructions for bfloat16 and take minutes for the latter.
    """
    assert load_experiment("individual").setup("full").model == "resnet18"
    write_cifar(CIFAR100, tmp_path, monkeypatch, [*range(0, 96, 4)])
    out = tmp_path / "out"
    asked = [
        "reproduce",
        "individual",
        "--scale",
        "full",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--device",
        "cpu",
        "--model",
        "resnet8",
    ]
    assert main([*asked, "--data-root", str(tmp_path), "--out", str(out)]) == 0
    content = json.loads((out / "result.json").read_text())
    assert content["setup"] | {"data": "cifar100", "model": "resnet8", "precision": "bf16"} == content["setup"]
    assert {arm: len(points) for arm, points in content["arms"].items()} == {
        "US-Net": 13, "S-Net, 4 switches": 4, "trained alone": 4,
    }  # fmt: skip  # 16 widths, some of which are the same network after rounding


@pytest.mark.slow
def test_a_scale_is_part_of_the_result_and_of_the_folder(tiny_data, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["reproduce", "nested", "--scale", "cifar", "--epochs", "1", "--seeds", "1", "--jobs", "1"]
    assert main([*asked, "--data", f"npz:{tiny_data}"]) == 0
    content = json.loads((tmp_path / "runs" / "reproduce" / "nested-cifar-tiny" / "result.json").read_text())
    wanted = {"scale": "cifar", "model": "resnet8", "image_size": 16, "augment": "crop-flip", "widths": 16}
    assert content["setup"] | wanted == content["setup"]
    assert set(content["seconds_by_cell"]) == set(load_experiment("nested").cells)
    assert min(content["seconds_by_cell"].values()) > 0
    assert [point["x"] for point in content["arms"]["nested"]] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.slow
def test_fashion_mnist_has_a_preset_of_its_own(tmp_path, monkeypatch) -> None:
    write_fashion(tmp_path, images=40, labels=40)
    out = tmp_path / "out"
    asked = ["reproduce", "post-statistics", "--data", "fashion-mnist", "--epochs", "1", "--seeds", "1", "--jobs", "1"]
    assert main([*asked, "--data-root", str(tmp_path), "--out", str(out)]) == 0
    assert json.loads((out / "result.json").read_text())["setup"]["image_size"] == 14
