"""A run is used where its data set is not, or is another one by now."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anywidth.cli import main
from anywidth.cli.serve import _reader
from anywidth.data import TensorImages, load_data
from anywidth.runs.dataset_info import DatasetInfo
from anywidth.runs.open_run import open_run
from anywidth.serving import Limits


def written(folder: Path, *, count: int = 60, pixels: Any = np.uint8) -> Path:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, size=(count, 8, 8)).astype(pixels)
    np.savez(folder / "mine.npz", x=images if pixels is np.uint8 else images / 16, y=np.arange(count) % 3)
    return folder / "mine.npz"


def trained(folder: Path, file: Path, *more: str) -> Path:
    run = folder / "run"
    fast = ["--epochs", "1", "--batch-size", "16", "--widths", "0.5,1.0", "--widths-per-step", "2"]
    assert main(["train", "--data", f"npz:{file}", *fast, "--out", str(run), *more]) == 0
    return run


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data set is gone; do not change it."""
    folder = tmp_path_factory.mktemp("moved")
    file = written(folder)
    run = trained(folder, file)
    file.unlink()
    return run


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--width", "0.5"], marks=pytest.mark.slow),
        pytest.param(["--ladder", "0.5,1"], marks=pytest.mark.slow),
        ["--width", "1", "--format", "torch"],
    ],
)
def test_a_width_is_exported_and_its_accuracy_not_measured(moved, tmp_path, capsys, arguments):
    assert main(["export", str(moved), *arguments, "--out", str(tmp_path / "a.onnx")]) == 0
    shown = capsys.readouterr()
    assert "warning: accuracy was not measured" in shown.err
    assert "not measured" in shown.out
    card = (tmp_path / "a.onnx.md").read_text()
    assert "pixels from 0 to 1, minus 0.5" in card
    assert "3 classes, in this order: 0, 1, 2" in card


def test_what_needs_the_images_says_so_in_one_line(moved, tmp_path, capsys):
    for arguments in (
        ["evaluate", str(moved)],
        ["calibrate", str(moved), "--widths", "0.75"],
        ["export", str(moved), "--width", "0.5", "--int8", "--out", str(tmp_path / "a.onnx")],
        ["serve", str(moved), "--widths", "0.75"],
    ):
        assert main(arguments) == 2
        *_, error = capsys.readouterr().err.splitlines()
        assert error.startswith("error: ")
        assert "mine.npz is not a file" in error
    assert not list(tmp_path.iterdir())


def test_a_server_reads_pictures_as_in_training(moved, monkeypatch, capsys):
    served: list[Any] = []

    def create_app(service: Any, *, token: str | None) -> None:
        served.append(service.served)

    monkeypatch.setattr("anywidth.serving.app.create_app", create_app)
    monkeypatch.setattr("anywidth.serving.http_server.serve_until_stopped", lambda *_, **__: None)
    assert main(["serve", str(moved), "--max-batch", "1"]) == 0
    assert served[0].classes == ("0", "1", "2")
    content = json.loads((moved / "data.json").read_text())["pixels"]
    assert served[0].reader.mean == tuple(content["mean"])
    assert served[0].reader.std == tuple(content["std"])


def test_pixels_are_normalised_as_the_data_set_does(tmp_path):
    from PIL import Image

    for bundle in (load_data("digits"), load_data(f"npz:{written(tmp_path)}")):
        images = bundle.test
        assert isinstance(images, TensorImages)
        info = DatasetInfo.of(bundle)
        reader = _reader(info, Limits())
        assert reader is not None
        grey = images.images[0, 0] if images.images.dtype == torch.uint8 else (images.images[0, 0] * 255).round()
        file = io.BytesIO()
        Image.fromarray(grey.numpy().astype(np.uint8), "L").save(file, "PNG")
        assert np.abs(reader.read(file.getvalue())[0] - images[0][0].numpy()).max() < 0.02


def test_pixels_of_an_unknown_range_are_not_guessed(tmp_path):
    info = DatasetInfo.of(load_data(f"npz:{written(tmp_path, pixels=np.float32)}"))
    assert info.mean is None
    assert _reader(info, Limits()) is None
    (tmp_path / "data.json").write_text(info.json())
    assert DatasetInfo.read(tmp_path / "data.json") == info


def pictures(folder: Path) -> Path:
    from PIL import Image

    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / part / name).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(folder / part / name / f"{number}.png")
    return folder


def train_on(folder: Path, run: Path) -> int:
    fast = [
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--widths",
        "0.5,1.0",
        "--widths-per-step",
        "2",
        "--model",
        "resnet8",
    ]
    return main(["train", "--data", f"imagefolder:{folder}", *fast, "--out", str(run)])


def test_a_run_that_never_finished_an_epoch_holds_nobody_to_its_images(tmp_path, capsys):
    folder, run = pictures(tmp_path / "pictures"), tmp_path / "run"
    broken = folder / "train" / "cat" / "9.png"
    broken.write_bytes(b"no picture")
    assert train_on(folder, run) == 2
    assert "9.png" in capsys.readouterr().err
    assert not run.exists()
    broken.unlink()
    assert train_on(folder, run) == 0


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of pictures and a run that was trained on them; put them back where you change them."""
    folder = tmp_path_factory.mktemp("pictured")
    assert train_on(pictures(folder / "pictures"), folder / "run") == 0
    return folder / "pictures", folder / "run"


@pytest.mark.parametrize("change", ["more images", "other names", "another order"])
def test_a_data_set_that_has_changed_is_not_taken_for_the_old_one(change, pictured, capsys):
    folder, run = pictured
    shutil.rmtree(folder)
    pictures(folder)
    if change == "more images":
        shutil.copy(folder / "train/cat/0.png", folder / "train/cat/8.png")
    elif change == "another order":
        (folder / "train/cat/0.png").rename(folder / "train/cat/zzz.png")
    else:
        for part in ("train", "test"):
            (folder / part / "cat").rename(folder / part / "ant")
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 2
    assert f"imagefolder:{folder} has changed since training" in capsys.readouterr().err
    assert open_run(run, device="cpu").data.images == (16, 16)
