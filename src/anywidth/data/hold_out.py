"""A part of the training images that is kept out of training, to decide by."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import Dataset, Subset

from anywidth.data.bundle import DataBundle
from anywidth.data.tensor_images import TensorImages
from anywidth.errors import DataError

__all__ = ["hold_out"]


def hold_out(bundle: DataBundle, share: float, *, seed: int) -> tuple[DataBundle, Dataset[Any]]:
    """The data set without a part of its training images, and that part, with the transforms of the test images.

    Every class gives about its share. The test images stay what they are: nothing is to be decided by them.

    Args:
        bundle: The data set.
        share: Of the training images, between 0 and 1.
        seed: Chooses the part.

    Raises:
        DataError: a class would have no image left on one of the two sides.

    >>> from anywidth.data import load_data
    >>> rest, held = hold_out(load_data("digits"), 0.1, seed=0)
    >>> len(rest.train), len(held)
    (1294, 144)
    """
    if not 0 < share < 1:
        raise DataError(f"{share:g} of the training images cannot be held out; give a share between 0 and 1")
    labels = _labels(bundle.train)
    size = round(share * len(labels))
    _, counts = np.unique(labels, return_counts=True)
    if size < len(counts) or len(labels) - size < len(counts) or counts.min() < 2:
        raise DataError(
            f"data set {bundle.name!r}: {size} of {len(labels)} training images cannot be held out so that every one of "
            f"{len(counts)} classes is on both sides; choose another share"
        )
    kept, held = (
        np.sort(part)
        for part in train_test_split(np.arange(len(labels)), test_size=size, stratify=labels, random_state=seed)
    )
    train = _part(bundle.train, kept, bundle.test, training=True)
    same = bundle.calibration is bundle.train
    calibration = train if same else _part(bundle.calibration, kept, bundle.test, training=True)
    return replace(bundle, train=train, calibration=calibration), _part(bundle.train, held, bundle.test, training=False)


def _labels(images: Dataset[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    if isinstance(images, TensorImages):
        return images.labels.cpu().numpy()
    if isinstance(images, Subset):
        return _labels(images.dataset)[np.asarray(images.indices)]
    labels = getattr(images, "targets", None)
    if isinstance(labels, Sequence):
        return np.asarray(labels)
    return np.asarray([images[index][1] for index in range(len(images))])  # type: ignore[arg-type]


def _part(
    images: Dataset[Any], indices: np.ndarray[Any, np.dtype[np.int64]], test: Dataset[Any], *, training: bool
) -> Dataset[Any]:
    """Some of the images; those that are not trained on are transformed as the test images are."""
    if isinstance(images, TensorImages):
        chosen = torch.from_numpy(indices)
        return TensorImages(
            images.images[chosen], images.labels[chosen], mean=images.mean.flatten(), std=images.std.flatten(),
            augment=images.augment if training else None, image_size=images.image_size,
        )  # fmt: skip
    if isinstance(images, Subset):
        inner = np.asarray(images.indices)[indices]
        return _part(images.dataset, inner, test.dataset if isinstance(test, Subset) else test, training=training)
    if training:
        return Subset(images, indices.tolist())
    transformed: Any = copy(images)
    transformed.transform = getattr(test, "transform", None)
    return Subset(transformed, indices.tolist())
