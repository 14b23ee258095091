"""Training images held out from training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, Subset

from anywidth.core.errors import DataError
from anywidth.data.bundle import DataBundle
from anywidth.data.tensor_images import TensorImages

__all__ = ["hold_out"]


def hold_out(bundle: DataBundle, share: float, *, seed: int = 0) -> tuple[DataBundle, Dataset[Any]]:
    """Split off a share of the training images, with the transforms of test images.

    The share is the same for every class, and the split depends on the seed only. Test images are unaffected.

    Args:
        bundle: The dataset.
        share: Share of the training images to hold out, in (0, 1).
        seed: Seed of the split.

    Raises:
        DataError: a class would have no images on one side, or the labels cannot be read.

    >>> from anywidth.data import load_data
    >>> rest, held_out = hold_out(load_data("digits"), 0.1)
    >>> len(rest.train), len(rest.calibration), len(held_out)
    (809, 809, 90)
    """
    if not 0 < share < 1:
        raise DataError(f"cannot hold out {share:g} of the training images; give a share between 0 and 1, such as 0.1")
    labels = _labels(bundle.train, bundle.name)
    classes, counts = np.unique(labels, return_counts=True)
    size = max(round(share * len(labels)), len(classes))
    if counts.min() < 2 or len(labels) - size < len(classes):
        raise DataError(
            f"{bundle.name}: cannot hold out {share:g} of {len(labels)} training images with images of all "
            f"{len(classes)} classes on both sides; change the share, or add images"
        )
    # Imported late, like everything that only some datasets need.
    from sklearn.model_selection import train_test_split

    kept, held = train_test_split(np.arange(len(labels)), test_size=size, stratify=labels, random_state=seed)
    kept, held = np.sort(kept), np.sort(held)
    train = _part(bundle.train, kept)
    calibration = train if bundle.calibration is bundle.train else _part(bundle.calibration, kept)
    return replace(bundle, train=train, calibration=calibration), _part(_as_tested(bundle), held)


def _labels(images: Any, name: str) -> npt.NDArray[np.int64]:
    if isinstance(images, TensorImages):
        return images.labels.cpu().numpy()
    if isinstance(images, Subset):
        return _labels(images.dataset, name)[np.asarray(images.indices)]
    targets = getattr(images, "targets", None)
    if not isinstance(targets, Sequence):
        raise DataError(f"the labels of {name!r} cannot be read without its images; split the images yourself")
    return np.asarray(targets)


def _part(images: Any, indices: npt.NDArray[np.int64]) -> Dataset[Any]:
    if not isinstance(images, TensorImages):
        return Subset(images, indices.tolist())
    chosen = torch.from_numpy(indices).to(images.images.device)
    return TensorImages(
        images.images[chosen], images.labels[chosen], mean=images.mean.flatten(), std=images.std.flatten(),
        augment=images.augment, image_size=images.image_size,
    )  # fmt: skip


def _as_tested(bundle: DataBundle) -> Any:
    """Training images with the transforms of the test images."""
    images = bundle.train
    if isinstance(images, TensorImages):
        images = copy.copy(images)
        images.augment = None
        return images
    transform = _transform(bundle.test)
    return images if transform is None else _with_transform(images, transform)


def _transform(images: Any) -> Any:
    """Transform of a dataset that reads images one by one, or None."""
    return _transform(images.dataset) if isinstance(images, Subset) else getattr(images, "transform", None)


def _with_transform(images: Any, transform: Any) -> Any:
    if isinstance(images, Subset):
        return Subset(_with_transform(images.dataset, transform), images.indices)
    if getattr(images, "transform", None) is None:
        return images
    images = copy.copy(images)
    images.transform = transform
    return images
