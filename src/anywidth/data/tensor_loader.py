"""Batches of images in memory."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from anywidth.data.order import BatchOrder
from anywidth.data.tensor_images import TensorImages

__all__ = ["TensorLoader"]


class TensorLoader:
    """Batches sliced from `TensorImages` in this process.

    Loading single items takes longer than a training step of a small network; slicing does not.

    Args:
        dataset: The images.
        order: The images of each batch, and the seed of the augmentation.

    Example:
        >>> import torch
        >>> images = TensorImages(torch.rand(10, 1, 8, 8), torch.arange(10))
        >>> loader = TensorLoader(images, BatchOrder(len(images), batch_size=4))
        >>> [inputs.shape[0] for inputs, targets in loader]
        [4, 4, 2]
    """

    def __init__(self, dataset: TensorImages, order: BatchOrder) -> None:
        self.dataset = dataset
        # Trainers look for an object with set_epoch under these two names, as on a DataLoader.
        self.sampler = order
        self.batch_sampler = None
        self._skipped = 0

    def __len__(self) -> int:
        """Number of batches per epoch."""
        return len(self.sampler)

    def skip(self, batches: int) -> None:
        """Leave out the first batches of the next epoch, for a training that resumes after them."""
        self._skipped = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images `(batch, channels, height, width)` and labels `(batch,)` of one epoch."""
        batches, generator = self.sampler.start_epoch()
        skipped, self._skipped = self._skipped, 0
        for number, indices in enumerate(batches):
            batch = self.dataset.take(indices, generator=generator)  # also if skipped: it draws random numbers
            if number >= skipped:
                yield batch
