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
    """Batches of any map-style data set, loaded by torch's `DataLoader`.

    What it adds is the order, and that transforms which draw from torch's generator repeat themselves: an
    epoch is fixed by the seed, its number and the count of workers, and reading it leaves the global
    generator alone.

    Args:
        dataset: Gives an image `(channels, height, width)` and an integer label for every index.
        order: Which images make up each batch, and the source of the transforms' random numbers.
        workers: Processes that load; 0 loads in this one.
        corrupt: What becomes of images that cannot be read: "raise" an error; "replace" them by the next, for
            training; or "drop" them.

    Attributes:
        problems: What was wrong with the images that could not be read so far.

    Raises:
        DataError: If `workers` is negative, or (when it is read) if an image cannot be read and is not to be left out.

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
            raise DataError(f"workers is {workers}; give 0 to load in the main process, or a count")
        self.dataset = dataset if corrupt == "raise" else SkipCorrupt(dataset, replace=corrupt == "replace")
        self.problems: set[str] = set()
        # Trainers look for an object with set_epoch under these two names, as a DataLoader has them.
        self.sampler = order
        self.batch_sampler = None
        self.workers = workers

    def __len__(self) -> int:
        """The number of batches of an epoch."""
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
        # Without workers the transforms run here and draw from the global generator.
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
    """Lets the global CPU generator go on where `own` is, and puts it back afterwards."""
    before = torch.get_rng_state()
    torch.set_rng_state(own.get_state())
    try:
        yield
    finally:
        own.set_state(torch.get_rng_state())
        torch.set_rng_state(before)
