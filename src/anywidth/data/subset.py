"""A smaller data set out of a large one."""

from __future__ import annotations

from dataclasses import replace

import torch

from anywidth.core.errors import DataError
from anywidth.data.bundle import DataBundle
from anywidth.data.tensor_images import TensorImages

__all__ = ["fewer_images"]


def fewer_images(bundle: DataBundle, *, train: int | None = None, test: int | None = None, seed: int = 0) -> DataBundle:
    """The same data set with at most so many training and test images, chosen at random.

    Args:
        bundle: A data set whose images lie in memory.
        train: Training images to keep, which are those for calibration too; None keeps all.
        test: Test images to keep; None keeps all.
        seed: Chooses the images.

    Raises:
        DataError: the images do not lie in memory, or a number is not positive.

    >>> from anywidth.data import load_data
    >>> len(fewer_images(load_data("digits"), train=100).train)
    100
    """
    kept = _choose(bundle.train, train, seed, bundle.name)
    return replace(bundle, train=kept, calibration=kept, test=_choose(bundle.test, test, seed, bundle.name))


def _choose(images: object, count: int | None, seed: int, name: str) -> TensorImages:
    if not isinstance(images, TensorImages):
        raise DataError(
            f"the images of {name!r} are read one by one; fewer of them can be taken of sets in memory only"
        )
    if count is None or count >= len(images):
        return images
    if count < 1:
        raise DataError(f"{count} images of {name!r} are asked for; give at least 1")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return TensorImages(
        images.images[chosen], images.labels[chosen], mean=images.mean.flatten(), std=images.std.flatten(),
        augment=images.augment, image_size=images.image_size,
    )  # fmt: skip
