"""`anywidth export` on a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import anywidth as aw
from anywidth.cli import main
from anywidth.export import load_dense
from anywidth.export.session import open_session
from proofs import assert_close


def test_a_width_is_written_with_its_card(finished, tmp_path, capsys):
    out = tmp_path / "small.onnx"
    assert main(["export", str(finished), "--width", "0.5", "--out", str(out), "--license", "mit"]) == 0
    printed = capsys.readouterr().out
    assert f"written to {out} and {out}.md" in printed
    net, x = aw.load(finished), torch.randn(5, 1, 8, 8)
    (got,) = open_session(out).run(None, {open_session(out).get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(got), net.extract(0.5).eval()(x), 1e-4)
    card = Path(f"{out}.md").read_text()
    assert "license: mit" in card
    assert "tiny.npz" in card
    assert "| 0.5 | " in card
    assert sorted(file.name for file in tmp_path.iterdir()) == ["small.onnx", "small.onnx.md"]


def test_torch_files_load_into_the_model(finished, tmp_path, capsys):
    out = tmp_path / "small.weights"
    assert main(["export", str(finished), "--width", "0.25", "--format", "torch", "--out", str(out)]) == 0
    net, x = aw.load(finished), torch.randn(5, 1, 8, 8)
    wanted = net.extract(0.25).eval()
    with torch.no_grad():
        assert_close(load_dense(out, net.model).eval()(x), wanted(x), 1e-6)


def test_a_budget_chooses_among_the_calibrated_widths(finished, tmp_path, capsys):
    net = aw.load(finished)
    from anywidth import macs

    limit = (macs(net, 0.5) + macs(net, 1.0)) // 2
    out = str(tmp_path / "small.safetensors")
    assert main(["export", str(finished), "--budget", f"macs<={limit}", "--out", out]) == 0
    assert f"widest width within macs<={limit}: 0.5" in capsys.readouterr().out
    assert main(["export", str(finished), "--budget", "macs<=10", "--out", out]) == 2
    assert "no width has macs within 10: the narrowest, 0.25, takes" in capsys.readouterr().err
    assert main(["export", str(finished), "--budget", "weight<=10kg", "--out", out]) == 2
    assert "cannot read a budget from 'weight<=10kg'" in capsys.readouterr().err
    assert main(["export", str(finished), "--budget", "300M", "--out", out]) == 2
    assert "budget 300M does not name a quantity; write macs<=300M" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "0.75"], "width 0.75 has no batch-norm statistics; calibrated: 0.25, 0.5, 1. Run first: anywidth calibrate"),
        (["--width", "0.1"], "width 0.1 is outside [0.25, 1]"),
        ([], "give one of --width, --budget and --ladder"),
        (["--width", "0.5", "--ladder", "0.5,1"], "not --width and --ladder"),
        (["--ladder", "0.5,1", "--format", "pt2"], "--ladder needs --format onnx, not pt2"),
        (["--width", "0.5", "--int8", "--format", "torch"], "--int8 needs --format onnx, not torch"),
        (["--width", "0.5", "--format", "tflite"], "format 'tflite' is unknown; choose one of onnx, pt2, torch"),
        (["--ladder", "0.5,1", "--int8"], "--int8 writes a single width"),
        (["--ladder", "0.5,1", "--blocked"], "--blocked does not work with --ladder"),
        (["--width", "0.5", "--int8", "--blocked"], "--blocked does not work with --int8"),
        (["--width", "0.5", "--blocked"], "this network is not nested"),
        (["--width", "0.5", "--blocked", "--format", "torch"], "format 'torch' has no files without zero blocks"),
        (["--ladder", "0.5,0.75"], "width 0.75 has no batch-norm statistics"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_one_line_and_writes_nothing(finished, tmp_path, capsys, arguments, message):
    out = tmp_path / "a.onnx"
    assert main(["export", str(finished), *arguments, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written_and_missing_runs_are_errors(finished, tmp_path, capsys):
    assert main(["export", str(tmp_path), "--width", "0.5", "--out", str(tmp_path / "a.onnx")]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    assert main(["export", str(finished), "--width", "0.5", "--format", "onnx", "--out", str(tmp_path)]) == 2
    assert "is a folder; give a file name" in capsys.readouterr().err
    assert main(["export", str(finished), "--width", "0.5", "--out", str(tmp_path / "a.txt")]) == 2
    assert "the extension of 'a.txt' matches no format" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", str(finished), "--width", "0.5"])
    assert "out" in capsys.readouterr().err
    damaged = shutil.copytree(finished, tmp_path / "damaged")
    (damaged / "data.json").write_text("{")
    assert main(["export", str(damaged), "--width", "0.5", "--out", str(tmp_path / "a.onnx")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "data.json" in error


@pytest.mark.slow
def test_a_nested_run_is_written_without_its_zero_weights(train, tmp_path):
    run, out = tmp_path / "run", tmp_path / "full.onnx"
    assert train("--nested", "0.5,1.0", "--widths", "0.5,1.0", "--epochs", "1", "--out", str(run)) == 0
    assert main(["export", str(run), "--width", "1", "--blocked", "--out", str(out)]) == 0
    net, x = aw.load(run), torch.randn(5, 1, 8, 8)
    (got,) = open_session(out).run(None, {open_session(out).get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert_close(torch.from_numpy(got), net.extract(1.0).eval()(x), 1e-4)


@pytest.mark.slow
def test_ladders_and_integers_are_written_with_their_accuracy(finished, tmp_path, capsys):
    out = tmp_path / "ladder.onnx"
    assert main(["export", str(finished), "--ladder", "0.25,0.5,1", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("float32") == 3
    session = open_session(out)
    x = np.zeros((1, 1, 8, 8), np.float32)
    assert len(session.run(None, {session.get_inputs()[0].name: x, "width": np.array([0.5], np.float32)})) == 1
    small = tmp_path / "int8.onnx"
    assert main(["export", str(finished), "--width", "1", "--int8", "--out", str(small)]) == 0
    printed = capsys.readouterr().out
    assert "float32" in printed
    assert "int8" in printed
    card = Path(f"{small}.md").read_text()
    assert "8-bit integers" in card
    assert "largest difference" not in card  # is that of the file in floats
    half = tmp_path / "half.onnx"
    assert main(["export", str(finished), "--width", "0.5", "--int8", "--out", str(half)]) == 0
    assert "do not make this file smaller" in capsys.readouterr().err
    limit = (half.stat().st_size + small.stat().st_size) // 2
    for budget, fits in ((limit, half), (small.stat().st_size, small)):
        out = tmp_path / "budget.onnx"
        assert main(["export", str(finished), "--budget", f"size<={budget}b", "--int8", "--out", str(out)]) == 0
        assert out.stat().st_size == fits.stat().st_size


def test_a_config_file_gives_options(finished, tmp_path):
    config = tmp_path / "export.yaml"
    config.write_text(f"run: {finished}\nwidth: 0.5\nformat: torch\nint8: false\nout: {tmp_path / 'a.bin'}\n")
    assert main(["export", "--config", str(config)]) == 0
    assert (tmp_path / "a.bin").is_file()


@pytest.mark.slow
def test_runs_with_switches_are_exported(train, tmp_path, capsys):
    run = tmp_path / "run"
    assert train("--switches", "0.5,1.0", "--distillation", "none", "--widths", "0.5,1.0", "--out", str(run)) == 0
    assert main(["export", str(run), "--width", "0.5", "--out", str(tmp_path / "a.pt2")]) == 0
    assert main(["export", str(run), "--width", "0.75", "--out", str(tmp_path / "b.pt2")]) == 2
    assert "is not a switch" in capsys.readouterr().err
    assert main(["export", str(run), "--ladder", "0.5,1.0", "--out", str(tmp_path / "l.onnx")]) == 0
    shutil.rmtree(run)
