"""Loaders of a dataset for training, testing and calibration."""

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
        train: Training images, in a new order every epoch.
        test: All test images (of this process), in dataset order.
        calibration: Training images in one random order, with the same order and augmentation in every pass.
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
    """Loaders of a dataset, reproducible by the seed.

    The last training or calibration batch is left out if it would contain a single image, which batch norm cannot
    normalize. Calibration batches are shuffled, because batches of images sorted by class would have the statistics of
    one class.

    Args:
        bundle: The dataset.
        batch_size: Images per batch.
        seed: Seed of the order and the augmentation.
        workers: Worker processes that load images from disk; images in memory need none.
        rank: Rank of this process among those that train together.
        world_size: Number of processes that train together; they divide the images of all three loaders. Every test
            image goes to exactly one process; `evaluate` and `calibrate` combine the results.
        skip_corrupt: Skip unreadable images instead of raising, and collect the errors in `problems` of the loader. In
            training, the next image takes their place.

    Raises:
        DataError: A number is out of range.

    Warns:
        NoEffectWarning: Workers were requested but all images are in memory.

    Example:
        >>> from anywidth.data import load_data
        >>> loaders = make_loaders(load_data("digits"), batch_size=128)
        >>> inputs, targets = next(iter(loaders.train))
        >>> inputs.shape, targets.shape, len(loaders.train)
        (torch.Size([128, 1, 8, 8]), torch.Size([128]), 8)
    """
    if workers > 0 and all(isinstance(part, TensorImages) for part in (bundle.train, bundle.test, bundle.calibration)):
        warnings.warn(
            f"workers={workers} has no effect for {bundle.name!r}, whose images are in memory; leave it out",
            NoEffectWarning,
            stacklevel=2,
        )

    def loader(dataset: Dataset[Any], shuffle: Shuffle, share: Share) -> TensorLoader | ItemLoader:
        length = len(cast(Sized, dataset))
        # With fewer batches than processes, use smaller batches so that every process gets images.
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
    """Whether the last batch would be a single image although other batches are larger."""
    return length > batch_size > 1 and length % batch_size == 1
