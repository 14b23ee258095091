"""Data sets from numpy archives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anywidth.core.errors import DataError
from anywidth.data import DataBundle, TensorImages, load_data

random = np.random.default_rng(0)


def load(folder: Path, *, seed: int = 0, image_size: int | None = None, **arrays: Any) -> DataBundle:
    np.savez(folder / "set.npz", **arrays)
    return load_data(f"npz:{folder / 'set.npz'}", seed=seed, image_size=image_size)


def parts(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"x_train": images, "y_train": labels, "x_test": images[:5], "y_test": labels[:5]}


def stored(bundle: DataBundle) -> TensorImages:
    assert isinstance(bundle.train, TensorImages)
    return bundle.train


BYTES = random.integers(0, 256, (20, 6, 7, 3), np.uint8)
LABELS = np.arange(20) % 4


def test_bytes_have_their_channels_last(tmp_path: Path) -> None:
    bundle = load(tmp_path, **parts(BYTES, LABELS))
    assert bundle.input_shape == (3, 6, 7)
    assert bundle.classes == ("0", "1", "2", "3")
    assert stored(bundle).images.dtype == torch.uint8
    assert torch.equal(stored(bundle).images, torch.from_numpy(BYTES).permute(0, 3, 1, 2))
    images, labels = stored(bundle).tensors
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(images.std((0, 2, 3), correction=0), torch.ones(3))
    assert labels.tolist() == LABELS.tolist()
    assert (len(stored(bundle)), len(bundle.test)) == (20, 5)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_have_their_channels_first(tmp_path: Path, dtype: type) -> None:
    bundle = load(tmp_path, **parts(random.random((20, 5, 6, 7)).astype(dtype), LABELS))
    assert bundle.input_shape == (5, 6, 7)
    assert stored(bundle).images.dtype == torch.float32


@pytest.mark.parametrize("images", [BYTES[..., 0], random.random((20, 6, 7))])
def test_grey_images_need_no_channels(tmp_path: Path, images: np.ndarray[Any, Any]) -> None:
    assert load(tmp_path, **parts(images, LABELS)).input_shape == (1, 6, 7)


def test_whole_set_is_split_by_the_seed(tmp_path: Path) -> None:
    first, again, other = (load(tmp_path, x=BYTES, y=LABELS, seed=seed) for seed in (0, 0, 1))
    assert len(stored(first)) == 16
    assert torch.equal(stored(first).images, stored(again).images)
    assert not torch.equal(stored(first).images, stored(other).images)


def test_labels_may_be_a_column_and_of_any_integer_type(tmp_path: Path) -> None:
    bundle = load(tmp_path, **parts(BYTES, LABELS[:, None].astype(np.uint8)))
    assert stored(bundle).labels.tolist() == LABELS.tolist()


def test_named_classes(tmp_path: Path) -> None:
    names = np.array(["ant", "bee", "cat", "dog", "eel"])
    assert load(tmp_path, **parts(BYTES, LABELS), classes=names).classes == tuple(names)


def test_image_size(tmp_path: Path) -> None:
    bundle = load(tmp_path, **parts(BYTES, LABELS), image_size=12)
    assert bundle.input_shape == (3, 12, 12)
    assert bundle.test[0][0].shape == (3, 12, 12)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz is not a file"):
        load_data(f"npz:{tmp_path}/nowhere.npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and then nothing"])
def test_file_that_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*set\.npz"):
        load_data(f"npz:{tmp_path}/set.npz")


def test_truncated_archive(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", x=BYTES, y=LABELS)
    content = bytearray((tmp_path / "set.npz").read_bytes())
    content[200:260] = bytes(60)
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*set\.npz"):
        load_data(f"npz:{tmp_path}/set.npz")


def test_single_array(tmp_path: Path) -> None:
    with (tmp_path / "set.npz").open("wb") as file:
        np.save(file, BYTES)
    with pytest.raises(DataError, match="contains a single unnamed array"):
        load_data(f"npz:{tmp_path}/set.npz")


FLOATS = random.random((20, 3, 6, 6))
NAN = FLOATS.copy()
NAN[7, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": BYTES}, "contains images; it needs x_train"),
        ({"x_train": BYTES, "y_train": LABELS}, "contains x_train, y_train; it needs"),
        ({"x": BYTES, "y": LABELS, "x_test": BYTES}, "x_test, x, y; it needs"),
        ({"x": BYTES[:9], "y": LABELS}, "x and y of .*: 9 images but 20 labels"),
        ({"x": BYTES, "y": LABELS - 1}, "label 0 is -1"),
        ({"x": BYTES, "y": LABELS.astype(float)}, "y of .* is float64"),
        ({"x": BYTES, "y": np.eye(20, dtype=int)}, "argmax"),
        ({"x": NAN, "y": LABELS}, "1 of 20 images contain NaN or infinity, the first is image 7"),
        ({"x": BYTES.astype(int), "y": LABELS}, "x of .* is int64; give uint8"),
        ({"x": BYTES[..., None], "y": LABELS}, r"has shape \(20, 6, 7, 3, 1\)"),
        ({"x": BYTES.transpose(0, 3, 1, 2), "y": LABELS}, "channels first; put them last"),
        ({"x": FLOATS.transpose(0, 2, 3, 1), "y": LABELS}, "channels last; put them first"),
        ({"x": BYTES, "y": LABELS * 1000}, "label 3000 exceeds the number of images"),
        ({"x": BYTES, "y": LABELS, "classes": np.array(["a", "b"])}, "has 2 names but a label is 3"),
        ({"x": BYTES[:0], "y": LABELS[:0]}, "there are no images"),
        ({"x": BYTES, "y": LABELS.astype(object)}, "allow_pickle=False; write plain arrays"),
        ({"x": BYTES[:5], "y": LABELS[:5]}, "class 1 has only one image"),
        (parts(BYTES, LABELS) | {"x_test": BYTES[:5, :5]}, r"\(3, 6, 7\) but test images \(3, 5, 7\)"),
    ],
)
def test_refuses(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, **arrays)


def test_crop_flip_changes_training_images_only(tmp_path: Path) -> None:
    images = np.arange(20 * 8 * 8 * 3, dtype=np.uint8).reshape(20, 8, 8, 3)
    path = tmp_path / "a.npz"
    np.savez(path, x=images, y=np.arange(20) % 2)
    plain, changed = (load_data(f"npz:{path}", augment=kind) for kind in ("auto", "crop-flip"))
    every = torch.arange(16)
    torch.manual_seed(0)
    before, after = stored(plain).take(every)[0], stored(changed).take(every)[0]
    assert before.shape == after.shape
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) >= 8
    assert isinstance(plain.test, TensorImages)
    assert isinstance(changed.test, TensorImages)
    assert torch.equal(plain.test.take(torch.arange(4))[0], changed.test.take(torch.arange(4))[0])


@pytest.mark.parametrize("source", ["digits", "imagefolder:photos"])
def test_crop_flip_is_refused_where_the_data_has_an_augmentation_of_its_own(source: str) -> None:
    with pytest.raises(DataError, match="crop-flip is for npz:FILE"):
        load_data(source, augment="crop-flip")
