"""`anywidth search` and `anywidth train --from-search`: from a trained supernet to a retrained network."""

from __future__ import annotations

import csv
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

import anywidth as aw
from anywidth.cli import main
from anywidth.core.errors import CheckpointError
from anywidth.cost import fit_latency
from anywidth.data import load_data
from anywidth.export import load_dense
from anywidth.models import build_model
from anywidth.report import count
from anywidth.runs import costs
from anywidth.runs.settings import TrainSettings
from anywidth.search import Evaluator, SearchResult
from anywidth.training.lightning import PlainModule
from fast import fast_and_slow

FAST = ["--step-fraction", "0.34"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def searched(train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with held-out images and the result of a search; do not change it."""
    out = tmp_path_factory.mktemp("runs") / "searched"
    given = [
        "--epochs",
        "1",
        "--widths",
        "1",
        "--width-sampling",
        "nonuniform",
        "--hold-out",
        "0.25",
        "--width-mult",
        "1.25",
    ]
    assert train("--out", str(out), *given) == 0
    assert main(["search", str(out), "--budgets", "70%,50%", *FAST]) == 0
    return out


def net_of(run: Path) -> aw.Supernet:
    return aw.load(run, build_model("digits", num_classes=3, input_shape=(1, 8, 8), width=1.25))


def test_it_writes_result_log_and_picture(searched) -> None:
    assert {path.name for path in searched.glob("search*")} == {
        f"search-macs.{kind}" for kind in ("json", "csv", "png")
    }
    result = SearchResult.from_json(searched / "search-macs.json")
    net = net_of(searched)
    full = aw.macs(net)
    assert [str(item.budget) for item in result.found] == ["70%", "50%"]
    for share, config in zip((0.7, 0.5), result, strict=True):
        assert aw.macs(net, config) <= share * full
    log = rows(searched / "search-macs.csv")
    assert int(float(log[0]["macs"])) == full
    assert float(log[-1]["macs"]) == result.found[-1].network.cost
    assert (searched / "search-macs.png").read_bytes().startswith(b"\x89PNG")


def test_the_held_out_images_are_training_images_that_were_not_trained_on(searched, tiny_data, monkeypatch) -> None:
    seen = []
    whole = Evaluator.__init__

    def look(self, net, data, **rest):
        seen.append(data)
        whole(self, net, data, **rest)

    monkeypatch.setattr(Evaluator, "__init__", look)
    assert main(["search", str(searched), "--budgets", "95%", "--out", str(searched / "again.json"), *FAST]) == 0
    for name in ("again.json", "again.csv", "again.png"):
        (searched / name).unlink()
    bundle = load_data(f"npz:{tiny_data}")

    def set_of(images) -> set[tuple[float, ...]]:
        return {tuple(image.flatten().tolist()) for image in images}

    held_out = set_of(torch.cat([inputs.args[0] for inputs, _ in seen[0].held_out]))
    calibration = set_of(torch.cat([inputs.args[0] for inputs in seen[0].calibration]))
    train, test = (set_of(images.tensors[0]) for images in (bundle.train, bundle.test))
    assert len(held_out) == 24
    assert held_out | calibration == train
    assert not held_out & calibration
    assert not held_out & test


def test_an_interrupted_search_goes_on(searched, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "found.json"
    asked = ["search", str(searched), "--budgets", "70%,50%", "--out", str(out), *FAST]
    evaluate, calls = Evaluator.__call__, []

    def stop(self, config):
        calls.append(config)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return evaluate(self, config)

    monkeypatch.setattr(Evaluator, "__call__", stop)
    assert main(asked) == 130
    assert "4 scored networks are kept in" in (error := capsys.readouterr().err)
    assert "run the same command to continue" in error
    assert main(asked) == 0
    assert "continuing with 4 scored networks" in capsys.readouterr().out
    again, before = (SearchResult.from_json(path) for path in (out, searched / "search-macs.json"))
    assert [step.network for step in again.steps] == [step.network for step in before.steps]
    assert not out.with_suffix(".state.json").exists()


def test_a_found_network_is_trained_beside_a_uniform_one(searched, tmp_path, capsys) -> None:
    file, out = searched / "search-macs.json", tmp_path / "retrained"
    assert main(["train", "--from-search", str(file), "--budget", "50%", "--out", str(out), "--epochs", "2"]) == 0
    assert "label smoothing 0.1" in capsys.readouterr().out
    table = rows(out / "comparison.csv")
    found = SearchResult.from_json(file).network("50%")
    net = net_of(searched)
    assert [row["width"].partition(" ")[0] for row in table] == ["found", "uniform"]
    assert int(table[0]["macs"]) == aw.macs(net, found.config)
    width = float(table[1]["width"].partition(" ")[2])
    assert int(table[1]["macs"]) == aw.macs(net, width)
    near = [aw.macs(net, w / 100) for w in range(25, 101)]
    assert abs(aw.macs(net, width) - found.cost) <= min(abs(macs - found.cost) for macs in near)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["width_mult"], config["epochs"], config["batch_size"], config["hold_out"]) == (1.25, 2, 32, 0.0)
    dense = load_dense(out / "found.safetensors", net.model)
    assert dense(torch.randn(2, 1, 8, 8)).shape == (2, 3)
    assert sum(p.numel() for p in dense.parameters()) == int(table[0]["params"])
    assert not (out / "checkpoints").exists()
    assert main(["train", "--resume", str(out)]) == 2
    assert "is complete" in capsys.readouterr().err


@pytest.mark.slow
def test_what_was_given_counts_also_if_it_is_the_default(searched, tmp_path, capsys) -> None:
    plain = TrainSettings()
    asked = ["train", "--from-search", str(searched / "search-macs.json"), "--budget", "50%", "--widths-per-step", "4"]
    assert main([*asked, "--epochs", "1", "--batch-size", str(plain.data.batch_size), "--out", str(tmp_path)]) == 0
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["batch_size"], config["widths_per_step"], config["lr"]) == (plain.data.batch_size, 4, 0.05)
    assert plain.data.batch_size != 32  # that of the searched run


COSTS = ("params", "memory", "latency", "latency-compiled", "latency-onnx")


@pytest.mark.parametrize("cost", fast_and_slow(COSTS, {"memory", "latency-onnx"}))
def test_other_costs(searched, tmp_path, cost, capsys, monkeypatch) -> None:
    out, model = tmp_path / "x.json", tmp_path / "model.json"
    # Measuring so small a network would tell of the machine's noise.
    monkeypatch.setattr(costs, "fit_latency", partial(fit_latency, configs=4, held_out=2))
    monkeypatch.setattr(
        costs, "latency", lambda net, config, device, compiled: 0.1 + compiled + 1e-3 * aw.macs(net, config)
    )
    export = sys.modules["anywidth.export"]  # the name in the package is the function
    monkeypatch.setattr(export, "onnx_latency", lambda net, config, calibrated: 0.1 + 1e-3 * aw.macs(net, config))
    asked = ["search", str(searched), "--budgets", "80%", "--cost", cost, "--latency-model", str(model), *FAST]
    assert main([*asked, "--out", str(out)]) == 0
    result = SearchResult.from_json(out)
    assert result.cost == cost
    assert result.network("80%").cost <= 0.8 * result.steps[0].network.cost
    text = capsys.readouterr().out
    assert model.exists() == ("2 held-out subnets" in text) == cost.startswith("latency")
    if cost == "latency-onnx":  # what was measured is used again
        monkeypatch.setattr(costs, "fit_latency", None)
        assert main([*asked, "--out", str(tmp_path / "y.json")]) == 0
        assert list(SearchResult.from_json(tmp_path / "y.json")) == list(result)
    if cost == "latency":
        assert main(["train", "--from-search", str(out), "--out", str(tmp_path / "run"), "--epochs", "1"]) == 0
        assert len(rows(tmp_path / "run" / "comparison.csv")) == 2


@pytest.mark.parametrize("method", ["evolution", "random"])
def test_other_methods(searched, tmp_path, method, capsys) -> None:
    out = tmp_path / "found.json"
    asked = ["search", str(searched), "--budgets", "macs<=70%", "--method", method, "--evaluations", "6", *FAST]
    assert main([*asked, "--seed", "3", "--out", str(out)]) == 0
    assert "100 % done: 6/6 networks" in capsys.readouterr().out
    result = SearchResult.from_json(out)
    assert {name: result.about[name] for name in ("method", "evaluations", "seed")} == {
        "method": method, "evaluations": 6, "seed": 3
    }  # fmt: skip
    assert aw.macs(net_of(searched), result[0]) <= 0.7 * aw.macs(net_of(searched))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["found.json", "found.png"]


@pytest.mark.slow
def test_an_interrupted_retraining_goes_on(searched, tmp_path, monkeypatch, capsys) -> None:
    file, out, whole = searched / "search-macs.json", tmp_path / "retrained", tmp_path / "whole"
    asked = ["train", "--from-search", str(file), "--budget", "50%", "--out"]
    assert main([*asked, str(whole)]) == 0
    step = PlainModule.training_step

    def stop(self, *arguments):
        if self.global_step == 2 and len(list(out.glob("*.safetensors"))) == 1:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PlainModule, "training_step", stop)
        assert main([*asked, str(out)]) == 130
    assert f"{out / 'checkpoints' / 'found.ckpt'} has " in (error := capsys.readouterr().err)
    assert f"Continue with: anywidth train --resume {out}" in error
    assert main(["train", "--resume", str(out)]) == 0
    assert (out / "comparison.csv").read_text() == (whole / "comparison.csv").read_text()


@pytest.mark.parametrize("epoch", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_retraining_whose_loss_is_not_finite_says_what_is_kept(
    searched, tmp_path, epoch, monkeypatch, capsys
) -> None:
    out, step = tmp_path / "retrained", PlainModule.training_step

    def broken(self, batch, index):
        images, labels = batch
        return step(self, (images * torch.nan if self.current_epoch + 1 == epoch else images, labels), index)

    asked = ["train", "--from-search", str(searched / "search-macs.json"), "--budget", "50%", "--epochs", "3"]
    with monkeypatch.context() as patch:
        patch.setattr(PlainModule, "training_step", broken)
        assert main([*asked, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert f"epoch {epoch}: the loss is not finite" in error
    assert error.count("\n") == 1
    if epoch == 1:
        assert "Nothing was stored yet, so nothing was kept" in error
        assert not out.exists()
        return
    kept = out / "checkpoints" / "found.ckpt"
    assert f"{kept} has 1 of 3 epochs. Continue with: anywidth train --resume {out}" in error
    assert main(["train", "--resume", str(out)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budgets", "1%"], "budget 1% is below the narrowest network"),
        (["--budgets", "2e9"], "budget 2e9 is not below the widest network"),
        (["--budgets", "fast"], "cannot read a budget from 'fast'"),
        (["--budgets", "5ms"], "budget 5ms limits a number of ms, not macs"),
        (["--budgets", "50%", "--method", "best"], "search method 'best' is unknown; choose one of"),
        (["--budgets", "50%", "--method", "random", "--evaluations", "0"], "--evaluations is 0"),
        (["--budgets", "50%", "--step-fraction", "0"], "step_fraction is 0"),
        (["--budgets", "50%", "--calibration-images", "1"], "--calibration-images is 1"),
        (["--budgets", "50%", "--out", "x.csv"], "ends in .json"),
        (["--budgets", "50%"], "already contains search results"),
    ],
)
def test_what_does_not_fit_is_one_line(searched, arguments, message, capsys, tmp_path) -> None:
    before = sorted(searched.iterdir())
    out = [] if "--out" in arguments or message.startswith("already") else ["--out", str(tmp_path / "x.json")]
    assert main(["search", str(searched), *arguments, *out]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(searched.iterdir()) == before


def test_a_run_without_held_out_images_warns(finished, tmp_path, capsys) -> None:
    assert main(["search", str(finished), "--budgets", "90%", "--out", str(tmp_path / "x.json"), *FAST]) == 0
    assert "train with --hold-out 0.1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "50%"], "--budget selects a network of --from-search"),
        (["--from-search", "FILE"], "networks for several budgets, 70%, 50%; choose one with --budget"),
        (["--from-search", "FILE", "--budget", "60%"], "no network for budget 60%; it has 70%, 50%"),
        (["--from-search", "nothing.json"], "cannot read a search from nothing.json"),
        (["--width-mult", "0"], "--width-mult is 0"),
        (["--hold-out", "1"], "--hold-out is 1"),
        (["--label-smoothing", "1.5"], "--label-smoothing is 1.5"),
    ],
)
def test_what_cannot_be_retrained_is_told(searched, tmp_path, arguments, message, capsys) -> None:
    arguments = [str(searched / "search-macs.json") if a == "FILE" else a for a in arguments]
    assert main(["train", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_result_without_a_run_cannot_be_retrained(searched, tmp_path, capsys) -> None:
    content = json.loads((searched / "search-macs.json").read_text())
    content["about"] = {}
    (tmp_path / "bare.json").write_text(json.dumps(content))
    assert main(["train", "--from-search", str(tmp_path / "bare.json"), "--budget", "50%"]) == 2
    assert "does not name its model and data" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        SearchResult.from_json(tmp_path)


def test_a_wider_model_keeps_its_width(searched, capsys) -> None:
    assert main(["evaluate", str(searched), "--widths", "1.0"]) == 0
    assert main(["inspect", str(searched), "--widths", "1.0"]) == 0
    assert main(["inspect", "--model", "digits", "--width-mult", "1.25", "--num-classes", "3", "--widths", "1.0"]) == 0
    out = capsys.readouterr().out
    assert out.count(count(aw.macs(net_of(searched)))) >= 3
    assert main(["train", "--model", "torchvision/resnet18", "--width-mult", "1.5", "--out", str(searched / "no")]) == 2
    assert "cannot be built at width 1.5" in capsys.readouterr().err
