"""The images in each batch of an epoch."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from anywidth.core.errors import DataError
from anywidth.data.checks import check_seed

__all__ = ["BatchOrder"]

Shuffle = Literal["epoch", "once", "never"]
Share = Literal["images", "batches"]


class BatchOrder:
    """Batches of every epoch, determined by the seed and the number of the epoch.

    Nothing else affects them: neither torch's global generator nor how far an earlier epoch was read. A run that
    resumes at epoch 7, after `set_epoch(7)`, sees the same batches as an uninterrupted run.

    Args:
        length: Number of images.
        batch_size: Images per batch.
        seed: Seed of the order.
        shuffle: "epoch" for a new order every epoch, "once" for one random order in all epochs, "never" for the order
            of the dataset.
        drop_last: Whether to leave out a last batch that is not full.
        rank: Rank of this process among those that divide the images.
        world_size: Number of processes that divide the images. Each gets `length // world_size` of them; the remainder,
            which differs between epochs, is left out.
        share: What the processes divide: "images", with equal numbers of batches, for training; or the "batches" of a
            single process, including the last image, for calibration and tests.

    Raises:
        DataError: A number is out of range, or there would be no batch.

    Example:
        >>> order = BatchOrder(5, batch_size=2, shuffle="never")
        >>> [batch.tolist() for batch in order.start_epoch()[0]]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: Shuffle = "epoch",
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        share: Share = "images",
    ) -> None:
        check_seed(seed)
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; give at least 1")
        if world_size < 1 or not 0 <= rank < world_size:
            raise DataError(f"rank is {rank} with {world_size} processes; give a rank from 0 to world_size - 1")
        if shuffle not in ("epoch", "once", "never"):
            raise DataError(f"shuffle is {shuffle!r}; choose epoch, once or never")
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle: Shuffle = shuffle
        self.drop_last = drop_last
        self.rank = rank
        self.world_size = world_size
        self.share: Share = share
        self.epoch = 0
        if len(self) == 0:
            raise DataError(
                f"{length} images over {world_size} processes do not fill a batch of {batch_size}; "
                "use a smaller batch_size or more images"
            )

    def __len__(self) -> int:
        """Number of batches per epoch for this process."""
        images = self.length // self.world_size if self.share == "images" else self.length
        batches = images // self.batch_size if self.drop_last else -(-images // self.batch_size)
        return batches if self.share == "images" else len(range(self.rank, batches, self.world_size))

    def set_epoch(self, epoch: int) -> None:
        """Set the number of the next epoch, counted from 0."""
        self.epoch = epoch

    def start_epoch(self) -> tuple[list[Tensor], torch.Generator]:
        """Index tensors of the next epoch's batches, and a generator for its augmentation.

        All processes use the same order and each takes its part; the generators differ.
        """
        epoch = self.epoch if self.shuffle == "epoch" else 0
        self.epoch += 1
        indices = torch.arange(self.length)
        if self.shuffle != "never":
            indices = torch.randperm(self.length, generator=self._generator(epoch, 0))
        generator = self._generator(epoch, 1 + self.rank)
        if self.share == "batches":
            return list(indices.split(self.batch_size))[self.rank :: self.world_size][: len(self)], generator
        images = self.length // self.world_size
        mine = indices[self.rank : images * self.world_size : self.world_size]
        return list(mine.split(self.batch_size))[: len(self)], generator

    def _generator(self, *stream: int) -> torch.Generator:
        state = np.random.SeedSequence((self.seed, *stream)).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]))
