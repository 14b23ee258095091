"""Images of a search: some for batch-norm statistics, and held-out ones for scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from anywidth.core.batches import first_samples, join_inputs, samples
from anywidth.core.errors import DataError, SearchError
from anywidth.core.inputs import Inputs
from anywidth.core.tensors import tensors_in
from anywidth.search.digest import digest_of

__all__ = ["CALIBRATION_IMAGES", "HELD_OUT_IMAGES", "SearchData"]

CALIBRATION_IMAGES = 2048
"""AutoSlim (arXiv 1903.11728) uses at least 2,000 for the batch-norm statistics of a candidate."""
HELD_OUT_IMAGES = 5000


@dataclass(frozen=True, eq=False)
class SearchData:
    """Batches in memory for a search.

    Attributes:
        calibration: Inputs for batch-norm statistics.
        held_out: Inputs and targets for scores.
    """

    calibration: tuple[Inputs, ...]
    held_out: tuple[tuple[Inputs, Any], ...]

    def __post_init__(self) -> None:
        if not self.held_out or not sum(samples(inputs) for inputs, _ in self.held_out):
            raise SearchError(
                "no images are held out to score networks on; give training images that the network was not trained on"
            )
        if any(targets is None for _, targets in self.held_out):
            raise SearchError("the held-out batches have no targets; give (inputs, targets) pairs")
        if sum(map(samples, self.calibration)) < 2:
            raise SearchError("batch-norm statistics need at least two training images; give a larger loader")

    @classmethod
    def of(
        cls,
        loader: Iterable[Any],
        held_out: Iterable[Any],
        *,
        images: int = CALIBRATION_IMAGES,
        limit: int | None = None,
    ) -> SearchData:
        """From a loader of training images, and one of held-out training images.

        Args:
            loader: Batches of training data.
            held_out: Batches of (inputs, targets).
            images: Number of images of `loader` in the single large batch for batch-norm statistics.
            limit: Maximum number of images to take from `held_out`.
        """
        training = [inputs for inputs, _ in first_samples(loader, images)]
        return cls((join_inputs(training),) if training else (), tuple(first_samples(held_out, limit)))

    @classmethod
    def split(
        cls,
        loader: Iterable[Any],
        *,
        images: int = CALIBRATION_IMAGES,
        held_out: int = HELD_OUT_IMAGES,
        batch_size: int = 500,
        seed: int = 0,
    ) -> SearchData:
        """Split one loader of training images into two disjoint parts.

        With fewer images than requested, both parts shrink in proportion.

        Args:
            loader: Batches of (inputs, targets).
            images: Number of images for batch-norm statistics.
            held_out: Number of images for scores.
            batch_size: Size of the held-out batches.
            seed: Seed of the split.

        >>> data = SearchData.split([(torch.randn(10, 4), torch.zeros(10).long())], images=8, held_out=12)
        >>> [inputs.args[0].shape[0] for inputs in data.calibration], data.held_out[0][1].shape[0]
        ([4], 6)
        """
        batches = list(first_samples(loader, images + held_out))
        if not batches:
            raise SearchError("the loader is empty; give batches of training images")
        if any(targets is None for _, targets in batches):
            raise SearchError("the loader returns no targets; a search needs (inputs, targets) pairs")
        inputs, targets = join_inputs([inputs for inputs, _ in batches]), _cat([targets for _, targets in batches])
        total = samples(inputs)
        first = min(images, max(2, round(total * images / (images + held_out))))
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        rest = order[first:].split(batch_size) if total > first else ()
        return cls(
            (_take(inputs, order[:first]),),
            tuple((_take(inputs, chosen), _index(targets, chosen)) for chosen in rest),
        )

    def to(self, device: torch.device, *, channels_last: bool = False) -> SearchData:
        """The same images on a device, in the memory format that suits its kernels."""

        def move(tensor: Tensor) -> Tensor:
            tensor = tensor.to(device)
            return (
                tensor.contiguous(memory_format=torch.channels_last) if channels_last and tensor.ndim == 4 else tensor
            )

        return SearchData(
            tuple(inputs.map(move) for inputs in self.calibration),
            tuple(
                (inputs.map(move), pytree.tree_map_only(Tensor, lambda t: t.to(device), targets))
                for inputs, targets in self.held_out
            ),
        )

    def digest(self) -> str:
        """Digest that identifies these images."""
        tensors = [t for inputs in self.calibration for t in inputs.tensors()]
        tensors += [t for inputs, targets in self.held_out for t in (*inputs.tensors(), *tensors_in(targets))]
        return digest_of((str(tuple(tensor.shape)), tensor) for tensor in tensors)


def _take(inputs: Inputs, chosen: Tensor) -> Inputs:
    return inputs.map(lambda tensor: tensor[chosen.to(tensor.device)] if tensor.ndim else tensor)


def _index(targets: Any, chosen: Tensor) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor[chosen.to(tensor.device)], targets)


def _cat(targets: Sequence[Any]) -> Any:
    if not all(isinstance(target, Tensor) for target in targets):
        raise DataError(
            f"targets of type {type(targets[0]).__name__} cannot be split; give the search held_out batches"
        )
    return torch.cat(list(targets))
