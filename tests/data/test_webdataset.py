"""Data sets from tar files of images and labels."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anywidth.cli import main
from anywidth.core.errors import DataError, ImageError
from anywidth.data import DataBundle, hold_out, load_data, make_loaders

random = np.random.default_rng(0)


def png(size: tuple[int, int] = (40, 36)) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write(shard: Path, samples: dict[str, bytes]) -> Path:
    """A tar file of members by name."""
    shard.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(shard, "w") as tar:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return shard


def samples(first: int, count: int, classes: int = 2) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for number in range(first, first + count):
        label = str(number % classes).encode()
        found |= {f"{number:04}.cls": label, f"{number:04}.png": png(), f"{number:04}.json": b"{}"}
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards to train on and one to test on."""
    write(tmp_path / "set-train-0000.tar", samples(0, 5))
    write(tmp_path / "set-train-0001.tar", samples(5, 4))
    write(tmp_path / "set-val-0000.tar", samples(9, 4))
    (tmp_path / "classes.json").write_text(json.dumps(["cat", "dog"]))
    return tmp_path


def lengths(bundle: DataBundle) -> tuple[int, int]:
    return len(bundle.train), len(bundle.test)  # pyright: ignore[reportArgumentType]


def test_shards_are_one_data_set(folder: Path) -> None:
    bundle = load_data(f"webdataset:{folder}")
    assert lengths(bundle) == (9, 4)
    assert bundle.classes == ("cat", "dog")
    assert bundle.input_shape == (3, 32, 32)
    assert [bundle.train[number][1] for number in range(9)] == [number % 2 for number in range(9)]
    image, label = bundle.test[3]
    assert (image.shape, image.dtype, label) == ((3, 32, 32), torch.float32, 0)


def test_an_image_is_that_of_its_key(tmp_path: Path) -> None:
    content = samples(0, 4)
    write(tmp_path / "train.tar", content)
    write(tmp_path / "test.tar", content)
    bundle = load_data(f"webdataset:{tmp_path}", image_size=32)
    pixels = np.asarray(Image.open(io.BytesIO(content["0002.png"])))
    picture = bundle.test.picture(2)  # type: ignore[attr-defined]
    assert np.array_equal(np.asarray(picture), pixels)
    assert bundle.classes == ("0", "1")


def test_without_shards_to_test_on_the_seed_splits(tmp_path: Path) -> None:
    write(tmp_path / "train-0.tar", samples(0, 20))
    first, again, other = (load_data(f"webdataset:{tmp_path}", seed=seed) for seed in (0, 0, 1))
    assert lengths(first) == (16, 4)
    assert torch.equal(first.test[0][0], again.test[0][0])
    assert first.test.indices != other.test.indices  # type: ignore[attr-defined]


def test_processes_and_workers_share_the_images_in_an_order_of_the_seed_and_epoch(folder: Path) -> None:
    bundle = load_data(f"webdataset:{folder}")
    orders = [make_loaders(bundle, batch_size=2, rank=rank, world_size=2).train.sampler for rank in range(2)]
    epochs = [[index for order in orders for batch in order.start_epoch()[0] for index in batch.tolist()]
              for _ in range(2)]  # fmt: skip
    assert all(len(set(epoch)) == len(epoch) == 8 for epoch in epochs)
    assert epochs[0] != epochs[1]
    resumed = make_loaders(bundle, batch_size=2, rank=0, world_size=2).train.sampler
    resumed.set_epoch(1)
    assert [i for batch in resumed.start_epoch()[0] for i in batch.tolist()] == epochs[1][:4]


def test_a_part_can_be_held_out(folder: Path) -> None:
    rest, held = hold_out(load_data(f"webdataset:{folder}"), 0.25)
    assert (len(rest.train), len(held)) == (7, 2)  # pyright: ignore[reportArgumentType]
    assert torch.equal(held[0][0], held[0][0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "set-train-0000.tar").rename(folder / "set-train-0002.tar"), None),
        (lambda folder: write(folder / "set-train-0003.tar", samples(20, 1)), "number 2 is missing"),
        (lambda folder: write(folder / "set-train-0002.tar", {}), "set-train-0002.tar contains no images"),
        (lambda folder: (folder / "set-val-0000.tar").write_bytes(b"x" * 2000), "cannot read shard .*val-0000.tar"),
        (lambda folder: write(folder / "set-train-0002.tar", {"a.cls": b"0"}), "sample '/a' has no image"),
        (lambda folder: write(folder / "set-train-0002.tar", {"a.png": png(), "b.png": png(), "b.cls": b"1"}),
         "sample '/a' has no label"),
        (lambda folder: write(folder / "set-train-0002.tar", {"a.png": png(), "a.cls": b"cat"}),
         "the label a.cls is b'cat'"),
        (lambda folder: write(folder / "set-train-0002.tar", {"a.png": png(), "a.cls": b"2"}),
         "labels range from 0 to 2, but there are 2 classes"),
        (lambda folder: (folder / "classes.json").write_text("{"), "cannot read .*classes.json"),
        (lambda folder: [shard.unlink() for shard in folder.glob("*train*")], "no training shards"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(folder: Path, spoil, message: str | None) -> None:
    spoil(folder)
    if message is None:
        assert lengths(load_data(f"webdataset:{folder}")) == (9, 4)
        return
    with pytest.raises(DataError, match=message):
        load_data(f"webdataset:{folder}")


@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
def test_a_shard_that_is_cut_off_is_named(folder: Path, left: float) -> None:
    shard = write(folder / "set-train-0001.tar", {"a.cls": b"0", "a.png": png((200, 200))})
    shard.write_bytes(shard.read_bytes()[: int(left * 120_000)])
    with pytest.raises(DataError, match="cannot read shard .*set-train-0001.tar: .*it is truncated"):
        load_data(f"webdataset:{folder}")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give webdataset:DIR"):
        load_data(f"webdataset:{tmp_path / 'nowhere'}")


def test_a_damaged_image_is_named_or_left_out(folder: Path) -> None:
    write(folder / "set-train-0001.tar", samples(5, 4) | {"0006.png": png()[:300]})
    bundle = load_data(f"webdataset:{folder}", skip_corrupt=True)
    with pytest.raises(ImageError, match=r"cannot read image 0006\.png of .*set-train-0001\.tar"):
        list(make_loaders(bundle, batch_size=3).train)
    loader = make_loaders(bundle, batch_size=3, skip_corrupt=True).train
    assert [len(labels) for _, labels in loader] == [3, 3, 3]


def test_a_run_trains_on_shards(folder: Path, tmp_path: Path) -> None:
    fast = ["--model", "resnet20", "--epochs", "1", "--batch-size", "4", "--widths", "1.0", "--workers", "0"]
    assert main(["train", "--data", f"webdataset:{folder}", *fast, "--out", str(tmp_path / "run")]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--widths", "0.5"]) == 0
