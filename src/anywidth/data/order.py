"""Which images make up each batch of an epoch."""

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
    """The batches of every epoch, fixed by the seed and the epoch's number alone.

    Nothing else moves it: not torch's global generator, and not how far an earlier epoch was read. So a run
    that resumes at epoch 7, after `set_epoch(7)`, sees what the unbroken run saw.

    Args:
        length: The number of images.
        batch_size: The number of images of a batch.
        seed: Chooses the order.
        shuffle: "epoch" for a new order every epoch, "once" for one random order that all epochs repeat,
            "never" for the order of the data set.
        drop_last: Whether a last batch that is not full is left out.
        rank: The number of this process among those that share the images, from 0.
        world_size: How many processes share the images. Each gets its own `length // world_size` of them; the
            remainder, which is another one each epoch, is left out.
        share: What the processes divide. "images", so that all have the same number of batches, for training; or
            "batches" of one process, to the last image, for calibration and tests.

    Raises:
        DataError: If a number is out of range, or no batch is left.

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
            raise DataError(f"rank {rank} of {world_size} processes; give a rank from 0 to world_size - 1")
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
                f"{length} images over {world_size} processes give no batch of {batch_size}; "
                "take a smaller batch_size or more images"
            )

    def __len__(self) -> int:
        """The number of batches of an epoch, for this process."""
        images = self.length // self.world_size if self.share == "images" else self.length
        batches = images // self.batch_size if self.drop_last else -(-images // self.batch_size)
        return batches if self.share == "images" else len(range(self.rank, batches, self.world_size))

    def set_epoch(self, epoch: int) -> None:
        """Makes the next epoch number `epoch`, counted from 0."""
        self.epoch = epoch

    def start_epoch(self) -> tuple[list[Tensor], torch.Generator]:
        """The index tensors of the next epoch's batches, and a generator for its augmentation.

        The order is the same for all processes, of which each takes its own part; the generator is not.
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
