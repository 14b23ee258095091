"""Batches of images that are read and transformed one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from anywidth.core.errors import DataError
from anywidth.core.generators import generators_kept
from anywidth.data.carried_errors import CarriedErrors, collate_unless_error
from anywidth.data.order import BatchOrder
from anywidth.data.seeded_items import SeededBatches, SeededItems
from anywidth.data.skip_corrupt import SkipCorrupt, collate_readable

__all__ = ["ItemLoader"]

Corrupt = Literal["raise", "replace", "drop"]


class ItemLoader:
    """Batches of a map-style dataset, loaded by torch's `DataLoader`.

    In addition, the order and the random transforms are reproducible: every image has its own random numbers, which
    depend only on the seed, the number of the epoch and the image's place in it. Reading an epoch leaves the global
    generators unchanged.

    Args:
        dataset: Returns an image `(channels, height, width)` and an integer label for every index.
        order: The images of each batch, and the seed of the transforms' random numbers.
        workers: Number of worker processes; 0 loads in this process.
        corrupt: Handling of unreadable images: "raise" an error, "replace" them by the next image, for training, or
            "drop" them.

    Attributes:
        problems: Errors about unreadable images so far.

    Raises:
        DataError: `workers` is negative, or (on access) an image cannot be read and `corrupt` is "raise".

    Example:
        >>> dataset = torch.utils.data.TensorDataset(torch.rand(10, 1, 8, 8), torch.arange(10))
        >>> loader = ItemLoader(dataset, BatchOrder(len(dataset), batch_size=4))
        >>> [inputs.shape[0] for inputs, targets in loader]
        [4, 4, 2]
    """

    def __init__(
        self, dataset: Dataset[Any], order: BatchOrder, *, workers: int = 0, corrupt: Corrupt = "raise"
    ) -> None:
        if workers < 0:
            raise DataError(f"workers is {workers}; give 0 or more; 0 loads in the main process")
        self.dataset = dataset if corrupt == "raise" else SkipCorrupt(dataset, replace=corrupt == "replace")
        self.problems: set[str] = set()
        # Trainers look for an object with set_epoch under these two names, as on a DataLoader.
        self.sampler = order
        self.batch_sampler = None
        self.workers = workers
        self._skipped = 0

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return len(self.sampler)

    def skip(self, batches: int) -> None:
        """Leave out the first batches of the next epoch, for a training that resumes after them; nothing is loaded."""
        self._skipped = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images `(batch, channels, height, width)` and labels `(batch,)` of one epoch."""
        batches, generator = self.sampler.start_epoch()
        skipped, self._skipped = self._skipped, 0
        collate: Callable[[Any], Any] = collate_readable if isinstance(self.dataset, SkipCorrupt) else default_collate
        loader = DataLoader(
            SeededItems(CarriedErrors(self.dataset)),
            batch_sampler=SeededBatches(batches, generator, skipped=skipped),
            num_workers=self.workers,
            generator=generator,
            pin_memory=torch.cuda.is_available(),
            collate_fn=partial(collate_unless_error, collate=collate),
        )
        iterator = iter(loader)
        for _ in batches[skipped:]:
            with generators_kept():  # without workers, items are seeded in this process
                batch = next(iterator)
            if isinstance(batch, DataError):
                raise batch
            inputs, targets, *problems = batch
            self.problems.update(*problems)
            if inputs is not None:
                yield inputs, targets
