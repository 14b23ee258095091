"""Batches of images that are read and transformed one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from anywidth.core.errors import DataError
from anywidth.data.carried_errors import CarriedErrors, collate_unless_error
from anywidth.data.order import BatchOrder
from anywidth.data.skip_corrupt import SkipCorrupt, collate_readable

__all__ = ["ItemLoader"]

Corrupt = Literal["raise", "replace", "drop"]


class ItemLoader:
    """Batches of a map-style dataset, loaded by torch's `DataLoader`.

    In addition, the order and the random transforms are reproducible: an epoch depends only on the seed, its number and
    the number of workers, and reading it leaves torch's global generator unchanged.

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

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images `(batch, channels, height, width)` and labels `(batch,)` of one epoch."""
        batches, generator = self.sampler.start_epoch()
        collate: Callable[[Any], Any] = collate_readable if isinstance(self.dataset, SkipCorrupt) else default_collate
        loader = DataLoader(
            CarriedErrors(self.dataset),
            batch_sampler=[indices.tolist() for indices in batches],
            num_workers=self.workers,
            generator=generator,
            pin_memory=torch.cuda.is_available(),
            collate_fn=partial(collate_unless_error, collate=collate),
        )
        # Without workers, the transforms run here and use the global generator.
        own = torch.Generator().manual_seed(generator.initial_seed())
        iterator = iter(loader)
        for _ in batches:
            with _global_generator_as(own):
                batch = next(iterator)
            if isinstance(batch, DataError):
                raise batch
            inputs, targets, *problems = batch
            self.problems.update(*problems)
            if inputs is not None:
                yield inputs, targets


@contextmanager
def _global_generator_as(own: torch.Generator) -> Iterator[None]:
    """Context manager that sets the global CPU generator to the state of `own`, and restores it afterwards."""
    before = torch.get_rng_state()
    torch.set_rng_state(own.get_state())
    try:
        yield
    finally:
        own.set_state(torch.get_rng_state())
        torch.set_rng_state(before)
