"""torchvision's sets, read by its own code from small files in the real formats."""

import gzip
from functools import partial
from pathlib import Path

import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from anywidth.core.errors import DataError
from anywidth.data import TensorImages, load_data
from anywidth.data.augment import random_crop_flip
from small_sets import CLASSES, write_cifar, write_fashion


@pytest.mark.parametrize(("name", "kind", "classes"), [("cifar10", CIFAR10, 10), ("cifar100", CIFAR100, 100)])
def test_cifar(name: str, kind: type[CIFAR10], classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = write_cifar(kind, tmp_path, monkeypatch, [1, 0, classes - 1])
    bundle = load_data(name, root=tmp_path, download=False)
    assert isinstance(bundle.train, TensorImages)
    assert isinstance(bundle.test, TensorImages)
    assert torch.equal(bundle.train.images, torch.from_numpy(pixels))
    assert bundle.train.labels.tolist()[:3] == [1, 0, classes - 1]
    assert (len(bundle.train), len(bundle.test)) == (len(pixels), 3)
    assert bundle.classes == tuple(CLASSES[:classes])
    assert bundle.input_shape == (3, 32, 32)
    images, _ = bundle.train.tensors
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    assert torch.equal(bundle.test[2][0], bundle.test.tensors[0][2])


def test_training_images_are_cropped_and_mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(CIFAR10, tmp_path, monkeypatch, [1, 0])
    bundle = load_data("cifar10", root=tmp_path, download=False)
    assert bundle.calibration is bundle.train
    views = torch.stack([bundle.train[0][0] for _ in range(8)])
    assert len(views.unique(dim=0)) > 1
    assert torch.equal(bundle.test[0][0], bundle.test[0][0])


def test_files_that_are_there_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(CIFAR10, tmp_path, monkeypatch, [1, 0])
    monkeypatch.setattr(CIFAR10, "url", "no such place")
    assert load_data("cifar10", root=str(tmp_path), download=True).name == "cifar10"


def test_fashion_mnist(tmp_path: Path) -> None:
    pixels = write_fashion(tmp_path)
    bundle = load_data("fashion-mnist", root=tmp_path, download=False, image_size=32)
    assert isinstance(bundle.train, TensorImages)
    assert torch.equal(bundle.train.images[:, 0], torch.from_numpy(pixels))
    assert bundle.train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert isinstance(bundle.train.augment, partial)
    assert (bundle.train.augment.func, bundle.train.augment.keywords) == (random_crop_flip, {"padding": 4})
    assert bundle.input_shape == bundle.train[0][0].shape == (1, 32, 32)
    assert (len(bundle.classes), bundle.classes[1]) == (10, "Trouser")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist"])
def test_missing_files(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"cannot load {name} from .*; allow the download") as caught:
        load_data(name, root=tmp_path, download=False)
    assert str(tmp_path) in str(caught.value)


def test_damaged_cifar_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(CIFAR10, tmp_path, monkeypatch, [1, 0])
    (tmp_path / CIFAR10.base_folder / "data_batch_2").write_bytes(b"damaged")
    with pytest.raises(DataError, match="corrupted"):
        load_data("cifar10", root=tmp_path, download=False)


def test_download_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    with pytest.raises(DataError, match=r"cannot load cifar10 from .*; check the network"):
        load_data("cifar10", root=tmp_path / "data")


@pytest.mark.parametrize("content", [b"", b"short", gzip.compress(b"still packed")], ids=["empty", "short", "packed"])
def test_damaged_fashion_mnist_file(content: bytes, tmp_path: Path) -> None:
    write_fashion(tmp_path)
    (tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match="cannot load fashion-mnist"):
        load_data("fashion-mnist", root=tmp_path, download=False)


def test_counts_that_disagree(tmp_path: Path) -> None:
    write_fashion(tmp_path, labels=5)
    with pytest.raises(DataError, match=r"the training part of fashion-mnist in .*: 6 images but 5 labels"):
        load_data("fashion-mnist", root=tmp_path, download=False)
