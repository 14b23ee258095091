"""Random subset of a dataset."""

from __future__ import annotations

from dataclasses import replace

import torch

from anywidth.core.errors import DataError
from anywidth.data.bundle import DataBundle
from anywidth.data.tensor_images import TensorImages

__all__ = ["fewer_images"]


def fewer_images(bundle: DataBundle, *, train: int | None = None, test: int | None = None, seed: int = 0) -> DataBundle:
    """Random subset of a dataset with limited numbers of training and test images.

    Args:
        bundle: A dataset whose images are in memory.
        train: Number of training images to keep, which are also used for calibration; None keeps all.
        test: Number of test images to keep; None keeps all.
        seed: Seed of the choice.

    Raises:
        DataError: the images are not in memory, or a number is not positive.

    >>> from anywidth.data import load_data
    >>> len(fewer_images(load_data("digits"), train=100).train)
    100
    """
    kept = _choose(bundle.train, train, seed, bundle.name)
    return replace(bundle, train=kept, calibration=kept, test=_choose(bundle.test, test, seed, bundle.name))


def _choose(images: object, count: int | None, seed: int, name: str) -> TensorImages:
    if not isinstance(images, TensorImages):
        raise DataError(f"the images of {name!r} are read from disk; a subset needs images in memory")
    if count is None or count >= len(images):
        return images
    if count < 1:
        raise DataError(f"cannot take {count} images of {name!r}; give at least 1")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return TensorImages(
        images.images[chosen], images.labels[chosen], mean=images.mean.flatten(), std=images.std.flatten(),
        augment=images.augment, image_size=images.image_size,
    )  # fmt: skip
