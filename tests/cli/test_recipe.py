"""What `anywidth train` can be asked for besides the recipe of the paper."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from safetensors.torch import load_file

from anywidth.cli import main

EVERYTHING = (
    "--hold-out", "0.2", "--keep", "best", "--early-stop", "9", "--optimizer", "adamw", "--lr", "0.003", "--schedule",
    "linear", "--accumulate", "2", "--clip", "1", "--average", "0.9", "--mixup", "0.2", "--cutmix", "1",
    "--rand-augment", "3", "--label-smoothing", "0.1", "--tensorboard", "--always-include", "widest",
)  # fmt: skip


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_at_once(train, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert train("--out", str(out), *EVERYTHING) == 0
    found = rows(out / "metrics.csv")
    assert list(found[0])[-5:] == ["accuracy@0.25", "accuracy@0.5", "accuracy@0.75", "accuracy@1", "accuracy"]
    assert [row["step"] for row in found] == ["2", "4"]  # 77 images in 3 batches, two at a time
    assert list((out / "tensorboard").glob("events.*"))
    assert not (out / "checkpoints").exists()
    text = capsys.readouterr().out
    assert "77 training, 19 held-out and 30 test images" in text
    best = max(found, key=lambda row: float(row["accuracy"]))
    assert f"keeping the weights of epoch {best['epoch']}, held-out accuracy {float(best['accuracy']):.2f} %" in text
    assert "stopped early" not in text
    assert main(["evaluate", str(out), "--widths", "0.5"]) == 0


@pytest.mark.slow
def test_an_interrupted_run_ends_like_an_unbroken_one(train, tmp_path, monkeypatch) -> None:
    from anywidth.runs import metrics_file

    options = ("--epochs", "3", *EVERYTHING[:-3])
    assert train("--out", str(tmp_path / "whole"), *options) == 0
    write = metrics_file.MetricsFile.on_train_epoch_end

    def interrupt(self, trainer, module) -> None:
        write(self, trainer, module)
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(metrics_file.MetricsFile, "on_train_epoch_end", interrupt)
        assert train("--out", str(tmp_path / "broken"), *options) == 130
    assert main(["train", "--resume", str(tmp_path / "broken")]) == 0
    ours, theirs = (load_file(tmp_path / run / "supernet.safetensors") for run in ("broken", "whole"))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours) <= 1e-6


def test_training_stops_early(train, tmp_path, capsys) -> None:
    assert (
        train("--out", str(tmp_path), "--epochs", "30", "--lr", "1e-9", "--hold-out", "0.2", "--early-stop", "1") == 0
    )
    done = len(rows(tmp_path / "metrics.csv"))
    assert done < 30
    assert f"stopped early after epoch {done} of 30: no better score for 1" in capsys.readouterr().out


@pytest.mark.slow
def test_images_are_resized_when_asked(train, tmp_path, capsys) -> None:
    assert train("--out", str(tmp_path), "--image-size", "12", "--epochs", "1") == 0
    assert "images of 1x12x12" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path), "--widths", "1.0"]) == 0


def test_an_option_is_not_guessed_from_its_beginning(train, capsys) -> None:
    with pytest.raises(SystemExit):
        train("--epoch", "3")
    assert "--epoch" in capsys.readouterr().err


def test_a_run_that_is_not_finished_is_no_damaged_one(train, tmp_path, monkeypatch, capsys) -> None:
    from anywidth.runs import supernet_run

    def interrupt(*_, **__) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(supernet_run, "calibrate", interrupt)
    assert train("--out", str(tmp_path)) == 130
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path)]) == 2
    assert f"is incomplete; continue with: anywidth train --resume {tmp_path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--keep", "best"], "give --hold-out 0.1"),
        (["--early-stop", "3"], "give --hold-out 0.1"),
        (["--keep", "best", "--hold-out", "0.1", "--individual", "2"], "train networks for equal epochs"),
        (["--average", "1"], "--average is 1"),
        (["--average", "0.9", "--switches", "0.5,1"], "does not work with --switches"),
        (["--clip", "0"], "--clip is 0"),
        (["--mixup", "-1"], "--mixup is -1"),
        (["--accumulate", "0"], "--accumulate is 0"),
        (["--optimizer", "adamv"], "did you mean"),
        (["--rand-augment", "31"], "give 0 to 30"),
        (["--order", "l1"], "give them with --init"),
        (["--init", "hub", "--individual", "2"], "train from new weights"),
        (["--init", "hub"], "no published weights of digits"),
        (["--init", "nowhere.pt"], "cannot read weights"),
    ],
)
def test_what_makes_no_sense_is_refused(train, tmp_path, capsys, options, text) -> None:
    assert train("--out", str(tmp_path / "run"), *options) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_rand_augment_needs_eight_bits(tmp_path, capsys) -> None:
    assert main(["train", "--rand-augment", "5", "--out", str(tmp_path / "run")]) == 2
    assert "8-bit images" in capsys.readouterr().err


def test_a_run_starts_from_the_weights_of_another(finished, train, tmp_path, monkeypatch, capsys) -> None:
    weights = str(finished / "supernet.safetensors")
    tiny = ["--epochs", "1", "--lr", "1e-12", "--init", weights]
    assert train("--out", str(tmp_path / "kept"), *tiny, "--order", "none") == 0
    ours, theirs = load_file(tmp_path / "kept" / "supernet.safetensors"), load_file(weights)
    names = [name for name in theirs if name.startswith("model/") and "running" not in name and "tracked" not in name]
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in names) < 1e-6
    assert train("--out", str(tmp_path / "sorted"), *tiny) == 0
    ours = load_file(tmp_path / "sorted" / "supernet.safetensors")
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in names) > 1e-3
    assert "newly initialized" not in capsys.readouterr().err


def test_random_widths_of_a_grid(train, tmp_path, monkeypatch) -> None:
    from anywidth.widths import WidthSampler

    drawn = set()
    sandwich = WidthSampler.sandwich

    def watch(self, n):
        widths = sandwich(self, n)
        drawn.update(widths)
        return widths

    monkeypatch.setattr(WidthSampler, "sandwich", watch)
    assert train("--out", str(tmp_path), "--width-grid", "3", "--epochs", "6") == 0
    assert drawn == {0.25, 0.625, 1.0}
    assert "width_grid: 3" in (tmp_path / "config.yaml").read_text()


@pytest.mark.slow
def test_compiled_widths(train, tmp_path) -> None:
    assert train("--out", str(tmp_path), "--compile", "--width-grid", "2") == 0
    assert main(["evaluate", str(tmp_path), "--widths", "0.5"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--width-grid", "1"), "--width-grid is 1; give at least 2"),
        (("--compile", "--width-sampling", "nonuniform"), "too many networks"),
        (("--width-grid", "3", "--switches", "0.5,1.0"), "leave out --width-grid"),
        (("--graphs", "--device", "cpu"), "--graphs needs a GPU"),
    ],
)
def test_what_does_not_fit_together_is_refused(train, capsys, options, message) -> None:
    assert train(*options) != 0
    assert message in capsys.readouterr().err
