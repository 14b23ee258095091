"""Items with random numbers of their own, so that transforms do not depend on what was loaded before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from anywidth.core.generators import seed_generators

__all__ = ["SeededBatches", "SeededItems"]

_SEEDS = 2**32  # numbers that `seed_generators` takes


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
        seed_generators(seed)
        return self.dataset[index]
