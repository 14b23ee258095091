"""Images that cannot be read, left out when asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anywidth.cli import main
from anywidth.core.errors import DataError, ImageError
from anywidth.data import DataBundle, ItemLoader, load_data, make_loaders
from anywidth.data.skip_corrupt import SkipCorrupt

random = np.random.default_rng(0)


def write(folder: Path, count: int, damaged: tuple[int, ...] = ()) -> None:
    """Images of two classes, of which some numbers are cut off in the first class."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (40, 36, 3), np.uint8)
            path = folder / name / f"{number}.png"
            Image.fromarray(pixels).save(path)
            if name == "cat" and number in damaged:
                path.write_bytes(path.read_bytes()[:300])


@pytest.fixture
def bundle(tmp_path: Path) -> DataBundle:
    write(tmp_path / "train", 4, damaged=(1, 2))
    write(tmp_path / "val", 3, damaged=(0,))
    return load_data(f"imagefolder:{tmp_path}")


def sizes(loader: object) -> list[int]:
    return [len(labels) for _, labels in loader]  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_training_batches_stay_full_and_the_problems_are_kept(bundle: DataBundle, workers: int) -> None:
    loader = make_loaders(bundle, batch_size=4, workers=workers, skip_corrupt=True).train
    assert isinstance(loader, ItemLoader)
    assert sizes(loader) == [4, 4]
    assert [Path(problem.split(": ")[0]).name for problem in sorted(loader.problems)] == ["1.png", "2.png"]
    assert sizes(loader) == [4, 4]
    assert len(loader.problems) == 2


def test_test_and_calibration_images_are_each_read_once(bundle: DataBundle) -> None:
    loaders = make_loaders(bundle, batch_size=4, skip_corrupt=True)
    assert sum(sizes(loaders.test)) == 5
    assert sum(sizes(loaders.calibration)) == 6
    alone = make_loaders(bundle, batch_size=1, skip_corrupt=True)
    assert sizes(alone.test) == [1] * 5
    labels = torch.cat([labels for _, labels in loaders.test])
    assert labels.tolist() == [0, 0, 1, 1, 1]


def test_a_readable_set_gives_the_same_batches(tmp_path: Path) -> None:
    write(tmp_path, 5)
    data = load_data(f"imagefolder:{tmp_path}")
    plain, skipping = (make_loaders(data, batch_size=4, skip_corrupt=skip).train for skip in (False, True))
    for (images, labels), (others, theirs) in zip(plain, skipping, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, theirs)


def test_it_is_an_error_by_default_and_if_all_are_damaged(tmp_path: Path) -> None:
    write(tmp_path / "train", 2, damaged=(0, 1))
    write(tmp_path / "val", 1)
    data = load_data(f"imagefolder:{tmp_path}", image_size=32)
    with pytest.raises(ImageError, match=r"cannot read image .*cat"):
        _ = list(make_loaders(data, batch_size=4).train)
    for path in tmp_path.glob("train/dog/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="4 images in a row cannot be read"):
        SkipCorrupt(data.train, replace=True)[0]


def test_a_size_is_chosen_by_the_readable_images(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"cannot read image .*0\.png"):
        load_data(f"imagefolder:{tmp_path}")
    assert load_data(f"imagefolder:{tmp_path}", skip_corrupt=True).input_shape == (3, 32, 32)
    for path in tmp_path.glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="no image can be read"):
        load_data(f"imagefolder:{tmp_path}", skip_corrupt=True)


@pytest.mark.slow
def test_a_run_says_how_many_were_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data" / "train", 8, damaged=(1, 2, 3, 4))
    write(tmp_path / "data" / "val", 3, damaged=(0,))
    command = ["train", "--data", f"imagefolder:{tmp_path / 'data'}", "--model", "resnet20", "--epochs", "2",
               "--batch-size", "8", "--widths", "0.25,1.0", "--workers", "0"]  # fmt: skip
    assert main([*command, "--out", str(tmp_path / "stopped")]) == 2
    assert "cannot read image" in capsys.readouterr().err
    assert main([*command, "--skip-corrupt", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("warning: 4 training images were left out: cannot read image")
    assert "cat/1.png" in lines[0]
    assert lines[0].endswith("and 1 more")
    assert lines[1].startswith("warning: 1 test image was left out: cannot read image")


@pytest.mark.slow
def test_left_out_images_are_told_once_for_all_networks_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data" / "train", 12, damaged=(1,))
    write(tmp_path / "data" / "val", 3, damaged=(0,))
    command = ["train", "--data", f"imagefolder:{tmp_path / 'data'}", "--model", "resnet20", "--epochs", "1",
               "--batch-size", "8", "--widths", "0.25,1.0", "--workers", "0", "--skip-corrupt"]  # fmt: skip
    run, found = str(tmp_path / "run"), str(tmp_path / "found.json")
    training, test = (f"warning: 1 {part} image was left out" for part in ("training", "test"))

    def told() -> list[str]:
        return [line.partition(": cannot read")[0] for line in capsys.readouterr().err.splitlines()]

    assert main([*command, "--individual", "2", "--out", run]) == 0
    assert told() == [training, test]
    assert main(["search", run, "--budgets", "90%", "--step-fraction", "0.5", "--out", found]) == 0
    capsys.readouterr()
    assert main(["train", "--from-search", found, "--out", str(tmp_path / "again")]) == 0
    assert told() == [training, test]
