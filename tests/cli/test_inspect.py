"""`anywidth inspect`: a model by name, or a run."""

from __future__ import annotations

from importlib import import_module

import pytest

from anywidth.cli import main


def test_a_model_by_name(capsys):
    assert main(["inspect", "--model", "resnet20", "--input-shape", "3,32,32", "--num-classes", "10"]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert "elastic channel groups" in out
    assert "reaches the output of the network" in out
    assert "100.0%" in out
    assert "1 MAC is one multiply-add; not counted:" in out


def test_chosen_widths_and_the_full_network(capsys):
    assert main(["inspect", "--model", "digits", "--widths", "0.3,0.5"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines if line and line[0] in ("0.3", "0.5", "1")] == ["0.3", "0.5", "1", "1"]


def test_frozen_patterns(capsys):
    assert main(["inspect", "--model", "digits", "--frozen", "stem*"]) == 0
    assert "asked for by 'stem*'" in capsys.readouterr().out


def test_a_run_is_inspected_without_its_data(finished, tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(import_module("anywidth.runs.open_run"), "build_data", lambda *_: pytest.fail("data were read"))
    assert main(["inspect", str(finished)]) == 0
    assert "elastic channel groups" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["runs/x", "--model", "digits"]])
def test_either_a_run_or_a_model(arguments, capsys):
    assert main(["inspect", *arguments]) == 2
    assert "give either a run folder or --model" in capsys.readouterr().err


def test_an_unknown_model(capsys):
    assert main(["inspect", "--model", "torchvision/nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
