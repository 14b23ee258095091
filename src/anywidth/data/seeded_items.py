"""Items with random numbers of their own, so that transforms do not depend on what was loaded before."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["SeededBatches", "SeededItems", "global_generators_kept"]

_SEEDS = 2**32  # numpy takes no larger ones


class SeededBatches:
    """Batches of (index, seed), for the items of `SeededItems`.

    Args:
        batches: Index tensors of an epoch.
        generator: Draws the seeds of all items of the epoch.
        skipped: Number of batches to leave out at the start.

    >>> [[index for index, _ in batch] for batch in SeededBatches([torch.tensor([2, 0]), torch.tensor([1])], None)]
    [[2, 0], [1]]
    """

    def __init__(self, batches: Sequence[Tensor], generator: torch.Generator | None, *, skipped: int = 0) -> None:
        sizes = [len(batch) for batch in batches]
        seeds = torch.randint(_SEEDS, (sum(sizes),), generator=generator).split(sizes)
        self._batches = list(zip(batches, seeds, strict=True))[skipped:]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for indices, seeds in self._batches:
            yield list(zip(indices.tolist(), seeds.tolist(), strict=True))


class SeededItems(Dataset[Any]):
    """Dataset whose items are loaded with the global generators of torch, numpy and Python seeded for each of them.

    Args:
        dataset: Any map-style dataset, whose items may be random.

    >>> from torch.utils.data import TensorDataset
    >>> SeededItems(TensorDataset(torch.arange(3)))[2, 12345]
    (tensor(2),)
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getitem__(self, index_and_seed: tuple[int, int]) -> Any:
        """Item at an index, with random numbers that follow from the seed."""
        index, seed = index_and_seed
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        return self.dataset[index]


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Context manager that restores the global CPU generators of torch, numpy and Python."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
