"""Dataset of images in memory, as one tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from anywidth.data.checks import check_images

__all__ = ["TensorImages"]


class TensorImages(Dataset[tuple[Tensor, int]]):
    """Labelled images in one tensor; returns single items, or whole batches in one slice.

    Pixels keep their dtype until they are accessed, which saves three quarters of the memory for uint8. On access they
    are augmented, resized, converted to float32 and normalized, in that order.

    Args:
        images: `(images, channels, height, width)`, uint8 or floating point.
        labels: `(images,)`, integers from 0.
        mean: Subtracted per channel; `(channels,)` in pixel units; None is 0.
        std: Divides each channel; `(channels,)` in pixel units; None is 1.
        augment: `augment(images, generator=...)`, which randomly changes images `(batch, channels, height, width)`;
            None for no augmentation.
        image_size: Height and width in pixels to resize images to; None keeps their size.

    Raises:
        DataError: Images and labels do not match.

    Example:
        >>> images = TensorImages(torch.rand(10, 1, 8, 8), torch.arange(10))
        >>> len(images), images[3][1], images.take(torch.tensor([1, 2]))[0].shape
        (10, 3, torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: Tensor | None = None,
        std: Tensor | None = None,
        augment: Callable[..., Tensor] | None = None,
        image_size: int | None = None,
    ) -> None:
        check_images(images, labels, where="tensor images")
        channels = images.shape[1]
        self.images = images
        self.labels = labels.long()
        self.mean = (torch.zeros(channels) if mean is None else mean).float().view(channels, 1, 1)
        self.std = (torch.ones(channels) if std is None else std).float().view(channels, 1, 1)
        self.augment = augment
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image `(channels, height, width)` and label at an index; augmentation uses torch's global generator."""
        images, labels = self.take(torch.tensor([index]))
        return images[0], int(labels[0])

    def to(self, device: torch.device) -> TensorImages:
        """The same images on another device, where they are also augmented and normalized."""
        return TensorImages(
            self.images.to(device), self.labels.to(device), mean=self.mean.flatten().to(device),
            std=self.std.flatten().to(device), augment=self.augment, image_size=self.image_size,
        )  # fmt: skip

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape `(channels, height, width)` of one returned image."""
        channels, height, width = self.images.shape[1:]
        return channels, self.image_size or height, self.image_size or width

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """All images, normalized but not augmented, and all labels; computed on every call.

        The shapes are `(images, channels, height, width)` and `(images,)`.
        """
        return self._finish(self.images), self.labels

    def take(self, indices: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Images `(batch, channels, height, width)` and labels `(batch,)` at the indices `(batch,)`.

        Augmentation draws from `generator`; None uses torch's global generator.
        """
        images = self.images[indices]
        if self.augment is not None:
            images = self.augment(images, generator=generator)
        return self._finish(images), self.labels[indices]

    def _finish(self, images: Tensor) -> Tensor:
        if self.image_size is not None and images.shape[2:] != (self.image_size, self.image_size):
            # Imported late: only resizing needs torchvision.
            from torchvision.transforms.v2 import functional

            images = functional.resize(images, [self.image_size, self.image_size], antialias=True)
        return (images.float() - self.mean) / self.std
