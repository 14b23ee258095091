"""Data sets from folders of image files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anywidth.core.errors import DataError, ImageError
from anywidth.data import DataBundle, load_data, make_loaders

random = np.random.default_rng(0)


def write_class(folder: Path, count: int, size: tuple[int, int] = (40, 36)) -> None:
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def load(folder: Path, *, seed: int = 0, image_size: int | None = None) -> DataBundle:
    return load_data(f"imagefolder:{folder}", seed=seed, image_size=image_size)


def lengths(bundle: DataBundle) -> tuple[int, int]:
    return len(bundle.train), len(bundle.test)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("test_name", ["val", "test"])
def test_two_parts(tmp_path: Path, test_name: str) -> None:
    for part, count in (("train", 3), (test_name, 2)):
        write_class(tmp_path / part / "cat", count)
        write_class(tmp_path / part / "dog", count)
    bundle = load(tmp_path)
    assert lengths(bundle) == (6, 4)
    assert bundle.classes == ("cat", "dog")
    assert bundle.input_shape == (3, 32, 32)
    for part in (bundle.train, bundle.test, bundle.calibration):
        image, label = part[3]
        assert (image.shape, image.dtype) == ((3, 32, 32), torch.float32)
        assert type(image) is torch.Tensor
        assert label == 1


def test_training_is_augmented_and_testing_is_not(tmp_path: Path) -> None:
    write_class(tmp_path / "cat", 2)
    bundle = load(tmp_path)
    assert not torch.equal(bundle.train[0][0], bundle.train[0][0])
    assert torch.equal(bundle.test[0][0], bundle.test[0][0])


def test_test_image_is_the_normalised_middle(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_class(tmp_path / part / "cat", 1, (36, 32))
    image = load(tmp_path).test[0][0]
    pixels = np.asarray(Image.open(tmp_path / "val" / "cat" / "0.png"))[:, 2:34] / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    torch.testing.assert_close(image, torch.from_numpy(expected).float().permute(2, 0, 1))


@pytest.mark.parametrize("inside", [".", "train"])
def test_class_folders_alone_are_split_by_the_seed(tmp_path: Path, inside: str) -> None:
    write_class(tmp_path / inside / "cat", 10)
    write_class(tmp_path / inside / "dog", 5)
    first, again, other = (load(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert lengths(first) == (12, 3)
    assert all(torch.equal(first.test[i][0], again.test[i][0]) for i in range(3))
    assert any(not torch.equal(first.test[i][0], other.test[i][0]) for i in range(3))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_class(tmp_path / "train", 2)
    write_class(tmp_path / "bus", 2)
    assert load(tmp_path).classes == ("bus", "train")


@pytest.mark.parametrize(("size", "expected"), [((20, 28), 32), ((64, 70), 64), ((100, 120), 96), ((500, 375), 224)])
def test_size_follows_the_images(tmp_path: Path, size: tuple[int, int], expected: int) -> None:
    write_class(tmp_path / "cat", 2, size)
    bundle = load(tmp_path)
    assert bundle.input_shape == (3, expected, expected)
    assert bundle.test[0][0].shape == (3, expected, expected)


def test_size_can_be_given(tmp_path: Path) -> None:
    write_class(tmp_path / "cat", 2)
    assert load(tmp_path, image_size=48).train[0][0].shape == (3, 48, 48)


def test_grey_images_become_coloured(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for index in range(2):
        Image.new("L", (32, 32), 99).save(tmp_path / "cat" / f"{index}.jpg")
    assert load(tmp_path).test[0][0].shape == (3, 32, 32)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist; give imagefolder:DIR"):
        load(tmp_path / "nowhere")


def test_no_class_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no class folders"):
        load(tmp_path)


def test_empty_class_folder(tmp_path: Path) -> None:
    write_class(tmp_path / "cat", 2)
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match=r"classes dog.*add images or remove the class folder"):
        load(tmp_path)


def test_test_part_without_a_training_part(tmp_path: Path) -> None:
    write_class(tmp_path / "val" / "cat", 2)
    with pytest.raises(DataError, match="has val/ but no train/"):
        load(tmp_path)


def test_parts_with_different_classes(tmp_path: Path) -> None:
    for folder in ("train/cat", "train/dog", "val/cat", "val/cow"):
        write_class(tmp_path / folder, 1)
    with pytest.raises(DataError, match="different classes: cow, dog"):
        load(tmp_path)


def test_single_image_cannot_be_split(tmp_path: Path) -> None:
    write_class(tmp_path / "cat", 1)
    with pytest.raises(DataError, match="one image"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not an image"])
def test_file_that_is_no_image(tmp_path: Path, content: bytes) -> None:
    write_class(tmp_path / "cat", 3)
    (tmp_path / "cat" / "9.png").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read image .*9\.png"):
        load(tmp_path)


# torch waits five seconds for a worker that failed, when its loader is collected.
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_damaged_image_is_named_when_it_is_read(tmp_path: Path, workers: int) -> None:
    write_class(tmp_path / "cat", 4)
    path = tmp_path / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:300])
    bundle = load(tmp_path, image_size=32)
    loaders = make_loaders(bundle, batch_size=4, seed=0, workers=workers)
    # Its message alone, without the traceback of the process that read it.
    with pytest.raises(
        ImageError, match=r"^cannot read image [^\n]*cat/0\.png[^\n]*; replace or remove the file, or skip .*$"
    ):
        _ = [*loaders.train, *loaders.test]


def test_a_test_part_beside_a_validation_part_is_said_to_be_unused(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(tmp_path / part / name / "0.png")
    with pytest.warns(UserWarning, match="val/ is used for testing, test/ is ignored"):
        load_data(f"imagefolder:{tmp_path}")
