"""CIFAR-10, CIFAR-100 and Fashion-MNIST, downloaded and read by torchvision."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100, FashionMNIST

from anywidth.core.errors import DataError
from anywidth.data.augment import random_crop_flip
from anywidth.data.bundle import DataBundle
from anywidth.data.checks import check_images
from anywidth.data.statistics import channel_statistics
from anywidth.data.tensor_images import TensorImages

__all__ = ["load_torchvision_bundle"]

_SETS = {"cifar10": CIFAR10, "cifar100": CIFAR100, "fashion-mnist": FashionMNIST}
_CROP_PADDING = 4


def load_torchvision_bundle(
    name: str, *, root: Path, download: bool = True, image_size: int | None = None
) -> DataBundle:
    """A small torchvision dataset in memory, normalized by the mean and standard deviation of the training images.

    Training images are randomly cropped with 4 pixels of padding and mirrored.

    Args:
        name: "cifar10", "cifar100" or "fashion-mnist".
        root: Folder of downloaded datasets.
        download: Whether to download missing files.
        image_size: Height and width in pixels; None keeps 32 (CIFAR) or 28 (Fashion-MNIST).

    Raises:
        DataError: The files are missing, damaged or cannot be downloaded.

    Example:
        >>> bundle = load_torchvision_bundle("cifar10", root=Path("data"))  # doctest: +SKIP
        >>> bundle.input_shape  # doctest: +SKIP
        (3, 32, 32)
    """
    (images, labels), (test_images, test_labels), classes = _read(name, root, download)
    for part, pixels, targets in (("training", images, labels), ("test", test_images, test_labels)):
        check_images(pixels, targets, where=f"the {part} part of {name} in {root}", classes=len(classes))
    mean, std = channel_statistics(images)
    train = TensorImages(
        images,
        labels,
        mean=mean,
        std=std,
        augment=partial(random_crop_flip, padding=_CROP_PADDING),
        image_size=image_size,
    )
    return DataBundle(
        name=name,
        train=train,
        test=TensorImages(test_images, test_labels, mean=mean, std=std, image_size=image_size),
        calibration=train,
        input_shape=train.input_shape,
        classes=classes,
    )


def _read(
    name: str, root: Path, download: bool
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], tuple[str, ...]]:
    try:
        train = _SETS[name](root, train=True, download=download)
        test = _SETS[name](root, train=False, download=download)
    # torchvision verifies checksums of CIFAR's files but not of Fashion-MNIST's, so a truncated file can fail anywhere
    # in the reader.
    except (
        RuntimeError,
        OSError,
        ValueError,
        AssertionError,
        EOFError,
        KeyError,
        pickle.UnpicklingError,
    ) as error:
        fix = (
            f"check the network connection, and remove damaged files from {root} to download them again"
            if download
            else "allow the download, or put the files there"
        )
        raise DataError(f"cannot load {name} from {root}: {error or type(error).__name__}; {fix}") from error
    return _tensors(train), _tensors(test), tuple(str(label) for label in train.classes)


def _tensors(part: CIFAR10 | FashionMNIST) -> tuple[Tensor, Tensor]:
    images = torch.as_tensor(part.data)
    # Grayscale images have no channel dimension; color images have the channels last.
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(part.targets)
