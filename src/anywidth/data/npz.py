"""Dataset from a NumPy archive."""

from __future__ import annotations

import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anywidth.core.errors import DataError
from anywidth.data.augment import random_crop_flip
from anywidth.data.bundle import DataBundle
from anywidth.data.checks import check_images
from anywidth.data.statistics import channel_statistics
from anywidth.data.tensor_images import TensorImages

__all__ = ["load_npz_bundle"]

_SPLIT = ("x_train", "y_train", "x_test", "y_test")
_WHOLE = ("x", "y")
_COLOURS = (1, 3, 4)


def load_npz_bundle(file: Path, *, seed: int, image_size: int | None = None, crop_flip: bool = False) -> DataBundle:
    """Images of a NumPy archive, normalized by the mean and standard deviation of the training images.

    The archive contains `x_train`, `y_train`, `x_test` and `y_test`, or `x` and `y`; the latter are split into about
    80% training and 20% test images per class. Images are uint8 `(images, height, width, channels)`, floating point
    `(images, channels, height, width)`, or either without channels for grayscale; labels are integers from 0 with shape
    `(images,)`. An optional array `classes` contains their names. By default images are not augmented, since mirroring
    could change their meaning.

    Args:
        file: The archive.
        seed: Seed of the split of `x` and `y`.
        image_size: Height and width in pixels; None keeps the size of the images.
        crop_flip: Whether to mirror training images at random and shift them by up to an eighth of their height.

    Raises:
        DataError: The file is missing or not an archive, or arrays are missing, malformed or inconsistent.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(Path(folder, "a.npz"), x=np.zeros((10, 8, 8), np.uint8), y=np.arange(10) % 2)
        ...     bundle = load_npz_bundle(Path(folder, "a.npz"), seed=0)
        >>> bundle.input_shape, bundle.classes
        ((1, 8, 8), ('0', '1'))
    """
    arrays = _read(file)
    parts = [_part(arrays, images, labels, file) for images, labels in _pairs(arrays, file)]
    classes = _classes(arrays, [labels for _, labels in parts], file)
    if len(parts) == 1:
        # Imported late: only the split needs scikit-learn.
        from anywidth.data.split import stratified_split

        images, labels = parts[0]
        split = stratified_split(labels.numpy(), seed=seed, where=f"x and y of {file}")
        parts = [(images[part], labels[part]) for part in map(torch.from_numpy, split)]
    (images, labels), (test_images, test_labels) = parts
    if images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{file}: training images have (channels, height, width) {tuple(images.shape[1:])} but test "
            f"images {tuple(test_images.shape[1:])}; give both the same shape"
        )
    mean, std = channel_statistics(images)
    augment = partial(random_crop_flip, padding=max(1, images.shape[2] // 8)) if crop_flip else None
    train = TensorImages(images, labels, mean=mean, std=std, augment=augment, image_size=image_size)
    return DataBundle(
        name=f"npz:{file}",
        train=train,
        test=TensorImages(test_images, test_labels, mean=mean, std=std, image_size=image_size),
        calibration=train,
        input_shape=train.input_shape,
        classes=classes,
    )


def _read(file: Path) -> dict[str, npt.NDArray[Any]]:
    if not file.is_file():
        raise DataError(f"{file} is not a file; give npz:FILE with the path of a NumPy archive")
    try:
        # Opened here, because numpy does not close a file that turns out not to be an archive.
        with file.open("rb") as handle:
            archive = np.load(handle, allow_pickle=False)
            if isinstance(archive, np.lib.npyio.NpzFile):
                known = {name: archive[name] for name in (*_SPLIT, *_WHOLE, "classes") if name in archive}
                return known or dict.fromkeys(archive.files[:5], np.empty(0))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read {file}: {error}; write plain arrays with numpy.savez") from error
    raise DataError(f"{file} contains a single unnamed array; write named arrays with numpy.savez")


def _pairs(arrays: dict[str, npt.NDArray[Any]], file: Path) -> list[tuple[str, str]]:
    if all(name in arrays for name in _SPLIT):
        return [("x_train", "y_train"), ("x_test", "y_test")]
    if all(name in arrays for name in _WHOLE) and not any(name in arrays for name in _SPLIT):
        return [("x", "y")]
    found = ", ".join(name for name in arrays if name != "classes") or "no arrays"
    raise DataError(f"{file} contains {found}; it needs x_train, y_train, x_test and y_test, or only x and y")


def _part(arrays: dict[str, npt.NDArray[Any]], images: str, labels: str, file: Path) -> tuple[Tensor, Tensor]:
    where = f"{images} and {labels} of {file}"
    targets = arrays[labels]
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise DataError(
            f"{labels} of {file} is {targets.dtype} of shape {targets.shape}; give one integer per image "
            "(one-hot labels: argmax over the classes; floats: astype(int))"
        )
    pixels = _channels_first(arrays[images], f"{images} of {file}")
    pair = pixels, torch.from_numpy(targets.astype(np.int64))
    check_images(*pair, where=where)
    return pair


def _channels_first(images: npt.NDArray[Any], where: str) -> Tensor:
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"{where} is {images.dtype}; give uint8 from 0 to 255, or floating point")
    if images.ndim not in (3, 4):
        raise DataError(
            f"{where} has shape {images.shape}; give (images, height, width, channels) for uint8, "
            "(images, channels, height, width) for floats, or (images, height, width) for grayscale"
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.dtype == np.uint8:
        if images.shape[3] not in _COLOURS and images.shape[1] in _COLOURS:
            raise DataError(
                f"{where} is uint8 of shape {images.shape}, with the channels first; put them last with "
                "x.transpose(0, 2, 3, 1)"
            )
        images = images.transpose(0, 3, 1, 2)
    elif images.shape[3] in _COLOURS and images.shape[1] == images.shape[2] > max(_COLOURS):
        raise DataError(
            f"{where} is {images.dtype} of shape {images.shape}, with the channels last; put them first with "
            "x.transpose(0, 3, 1, 2)"
        )
    kind = np.uint8 if images.dtype == np.uint8 else np.float32
    return torch.from_numpy(np.ascontiguousarray(images, dtype=kind))


def _classes(arrays: dict[str, npt.NDArray[Any]], labels: list[Tensor], file: Path) -> tuple[str, ...]:
    count = 1 + max(int(part.max()) for part in labels)
    if "classes" in arrays:
        names = tuple(str(name) for name in arrays["classes"].reshape(-1))
        if len(names) < count:
            raise DataError(f"{file}: classes has {len(names)} names but a label is {count - 1}; name every class")
        return names
    if count > sum(len(part) for part in labels):
        raise DataError(
            f"{file}: label {count - 1} exceeds the number of images; number the classes 0, 1, 2, ... "
            "without gaps, or name them in classes"
        )
    return tuple(str(label) for label in range(count))
