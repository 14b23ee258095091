"""Shared checks of datasets; every error says how to fix it."""

from __future__ import annotations

import torch
from torch import Tensor

from anywidth.core.errors import DataError

__all__ = ["check_images", "check_seed"]


def check_images(images: Tensor, labels: Tensor, *, where: str, classes: int | None = None) -> None:
    """Raise a `DataError` unless images and labels are valid and match.

    Args:
        images: `(images, channels, height, width)`, uint8 or floating point.
        labels: `(images,)`, integers.
        where: Source of both in messages, such as "x_train and y_train of faces.npz".
        classes: Number of classes, if known; labels must be below it.

    Raises:
        DataError: Shapes or counts are wrong, a label is out of range, or a pixel is not finite.

    Example:
        >>> check_images(torch.zeros(2, 1, 8, 8), torch.tensor([0, -1]), where="my set")
        Traceback (most recent call last):
        anywidth.core.errors.DataError: my set: label 1 is -1; number the classes from 0
    """
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise DataError(f"{where}: the images have shape {tuple(images.shape)}; give (images, channels, height, width)")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise DataError(f"{where}: the images are {images.dtype}; give uint8 or floating point")
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(
            f"{where}: the labels are {labels.dtype} of shape {tuple(labels.shape)}; give one integer per image"
        )
    if len(images) != len(labels):
        raise DataError(f"{where}: {len(images)} images but {len(labels)} labels; give one label per image")
    if len(images) == 0:
        raise DataError(f"{where}: there are no images; give at least one")
    if int(labels.min()) < 0:
        index = int((labels < 0).nonzero()[0])
        raise DataError(f"{where}: label {index} is {int(labels[index])}; number the classes from 0")
    if classes is not None and int(labels.max()) >= classes:
        index = int((labels >= classes).nonzero()[0])
        raise DataError(
            f"{where}: label {index} is {int(labels[index])} but there are {classes} classes; "
            f"give labels from 0 to {classes - 1}, or name every class"
        )
    if images.is_floating_point() and not bool(images.isfinite().all()):
        bad = (~images.isfinite()).flatten(1).any(dim=1).nonzero().flatten()
        raise DataError(
            f"{where}: {len(bad)} of {len(images)} images contain NaN or infinity, the first is image "
            f"{int(bad[0])}; repair or remove them"
        )


def check_seed(seed: int) -> None:
    """Raise a `DataError` unless the seed is an integer from 0 to 2**32 - 1, the range that all generators accept.

    Example:
        >>> check_seed(0)
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise DataError(f"seed is {seed!r}; give an integer from 0 to {2**32 - 1}")
