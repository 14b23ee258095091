"""The loaders of a data set: to train, to test and to calibrate with."""

from __future__ import annotations

import warnings
from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, cast

from torch.utils.data import Dataset

from anywidth.core.errors import NoEffectWarning
from anywidth.data.bundle import DataBundle
from anywidth.data.item_loader import ItemLoader
from anywidth.data.order import BatchOrder, Share, Shuffle
from anywidth.data.tensor_images import TensorImages
from anywidth.data.tensor_loader import TensorLoader

__all__ = ["Loaders", "make_loaders"]


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """Batches of images `(batch, channels, height, width)` and labels `(batch,)`.

    Attributes:
        train: The training images, in a new order every epoch.
        test: The test images, all of them (of this process), in the order of the data set.
        calibration: The training images in one random order; the same one, with the same augmentation, every
            time.
    """

    train: TensorLoader | ItemLoader
    test: TensorLoader | ItemLoader
    calibration: TensorLoader | ItemLoader


def make_loaders(
    bundle: DataBundle,
    *,
    batch_size: int,
    seed: int = 0,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    skip_corrupt: bool = False,
) -> Loaders:
    """The loaders of a data set, all of whose randomness is fixed by the seed.

    The last batch of the training and of the calibration images is left out if it would hold a single image,
    which batch norm cannot normalise. Calibration batches are in random order because images that are sorted
    by class would make each batch's statistics those of a class.

    Args:
        bundle: The data set.
        batch_size: The number of images of a batch.
        seed: Chooses the orders and the augmentation.
        workers: Processes that load images from disk; images that lie in memory need none.
        rank: The number of this process among those that train together, from 0.
        world_size: How many processes train together; they share the images of all three loaders between them.
            Every test image is in one of them; `evaluate` and `calibrate` put the parts together.
        skip_corrupt: Leave out images that cannot be read instead of raising an error, and keep what was wrong in
            `problems` of the loader. In training the next image takes the place.

    Raises:
        DataError: If a number is out of range.

    Warns:
        NoEffectWarning: If there are workers but all images lie in memory.

    Example:
        >>> from anywidth.data import load_data
        >>> loaders = make_loaders(load_data("digits"), batch_size=128)
        >>> inputs, targets = next(iter(loaders.train))
        >>> inputs.shape, targets.shape, len(loaders.train)
        (torch.Size([128, 1, 8, 8]), torch.Size([128]), 12)
    """
    if workers > 0 and all(isinstance(part, TensorImages) for part in (bundle.train, bundle.test, bundle.calibration)):
        warnings.warn(
            f"workers={workers} does nothing for {bundle.name!r}: its images lie in memory; leave it out",
            NoEffectWarning,
            stacklevel=2,
        )

    def loader(dataset: Dataset[Any], shuffle: Shuffle, share: Share) -> TensorLoader | ItemLoader:
        length = len(cast(Sized, dataset))
        # Where there are fewer batches than processes, smaller ones give each its part.
        size = batch_size if share == "images" else min(batch_size, max(1, length // world_size))
        order = BatchOrder(
            length,
            batch_size=size,
            seed=seed,
            shuffle=shuffle,
            drop_last=shuffle != "never" and _single_left(length // world_size if share == "images" else length, size),
            rank=rank,
            world_size=world_size,
            share=share,
        )
        if isinstance(dataset, TensorImages):
            return TensorLoader(dataset, order)
        corrupt = "raise" if not skip_corrupt else "replace" if shuffle == "epoch" else "drop"
        return ItemLoader(dataset, order, workers=workers, corrupt=corrupt)

    return Loaders(
        train=loader(bundle.train, "epoch", "images"),
        test=loader(bundle.test, "never", "batches"),
        calibration=loader(bundle.calibration, "once", "batches"),
    )


def _single_left(length: int, batch_size: int) -> bool:
    """Whether the last batch is a single image though others are not."""
    return length > batch_size > 1 and length % batch_size == 1
