"""Data sets of Hugging Face, from folders that the tests write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from anywidth.cli import main
from anywidth.core.errors import DataError
from anywidth.data import hold_out, load_data
from anywidth.data.rand_augment import with_rand_augment

CLASSES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def split(count: int, *, label: int | None = None, mode: str = "RGB") -> datasets.Dataset:
    random = np.random.default_rng(count)
    pictures = [
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).convert(mode) for _ in range(count)
    ]
    features = datasets.Features(
        {"id": datasets.Value("int64"), "img": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
    )
    labels = [number % 2 if label is None else label for number in range(count)]
    return datasets.Dataset.from_dict({"id": list(range(count)), "img": pictures, "label": labels}, features=features)


def saved(folder: Path, splits: dict[str, Any] | Any) -> str:
    made = datasets.DatasetDict(splits) if isinstance(splits, dict) else splits
    made.save_to_disk(str(folder))
    return f"hf:{folder}"


def test_splits_images_labels_and_classes_are_those_of_the_data_set(tmp_path) -> None:
    given = {"train": split(10), "test": split(6, mode="L")}
    bundle = load_data(saved(tmp_path / "set", given))
    assert (len(bundle.train), len(bundle.test), bundle.classes) == (10, 6, ("cat", "dog"))
    assert bundle.input_shape == (3, 32, 32)
    assert [bundle.test[number][1] for number in range(6)] == given["test"]["label"]
    first, again = bundle.test[0][0], bundle.test[0][0]
    assert first.shape == (3, 32, 32)
    assert (first == again).all()  # in the middle, not at random


def test_a_test_split_without_labels_gives_way_to_the_validation(tmp_path) -> None:
    given = {"train": split(10), "test": split(4, label=-1), "validation": split(8)}
    assert len(load_data(saved(tmp_path / "set", given)).test) == 8


def test_a_set_in_one_piece_is_split_by_the_seed(tmp_path) -> None:
    spec = saved(tmp_path / "set", split(20))
    bundle = load_data(spec, seed=1, image_size=16)
    assert (len(bundle.train), len(bundle.test), bundle.input_shape) == (16, 4, (3, 16, 16))
    assert bundle.train.indices == load_data(spec, seed=1).train.indices
    assert not set(bundle.train.indices) & set(bundle.test.indices)


def test_images_can_be_held_out_and_augmented(tmp_path) -> None:
    spec = saved(tmp_path / "set", {"train": split(20), "test": split(4)})
    bundle, held = hold_out(with_rand_augment(load_data(spec)), 0.2, seed=0)
    assert (len(bundle.train), len(held)) == (16, 4)
    assert bundle.train[0][0].shape == held[0][0].shape == (3, 32, 32)
    assert (held[1][0] == held[1][0]).all()


def test_a_folder_of_images_is_read_as_well(tmp_path) -> None:
    for name in CLASSES:
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (64, 64), (number, 0, 0)).save(tmp_path / "set" / "train" / name / f"{number}.png")
    bundle = load_data(f"hf:{tmp_path / 'set'}")
    assert (len(bundle.train), bundle.classes, bundle.input_shape) == (8, ("cat", "dog"), (3, 64, 64))


def test_what_is_no_set_of_labelled_images_is_told(tmp_path) -> None:
    with pytest.raises(DataError, match="has no train split, only other"):
        load_data(saved(tmp_path / "a", {"other": split(4)}))
    with pytest.raises(DataError, match=r"no column of type Image, only id \(Value\), label"):
        load_data(saved(tmp_path / "b", split(4).remove_columns("img")))
    with pytest.raises(DataError, match=r"some training images are unlabelled"):
        load_data(saved(tmp_path / "c", {"train": split(4, label=-1), "test": split(4)}))
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match="cannot be opened"):
        load_data(f"hf:{tmp_path / 'd'}")
    with pytest.raises(DataError, match="needs a path; write hf:NAME"):
        load_data("hf:")


def test_a_damaged_image_is_named(tmp_path) -> None:
    raw = split(4).cast_column("img", datasets.Image(decode=False))
    broken = raw.map(
        lambda row: {"img": {"bytes": b"no picture" if row["id"] == 2 else row["img"]["bytes"], "path": None}}
    )
    spec = saved(tmp_path / "set", {"train": split(4), "test": broken.cast_column("img", datasets.Image())})
    bundle = load_data(spec, image_size=16)
    assert bundle.test[1][0].shape == (3, 16, 16)
    with pytest.raises(DataError, match="cannot read image 2"):
        bundle.test[2]


@pytest.mark.slow
def test_a_run_trains_on_it(tmp_path, monkeypatch) -> None:
    spec = saved(tmp_path / "set", {"train": split(16), "test": split(4)})
    fast = ["--model", "resnet20", "--epochs", "1", "--batch-size", "8", "--widths", "0.5", "--workers", "0"]
    assert main(["train", "--data", spec, *fast, "--out", str(tmp_path / "run")]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(tmp_path / "run"), "--widths", "0.5"]) == 0
