"""RandAugment for any dataset."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset
from torchvision.transforms import v2

from anywidth.core.errors import DataError
from anywidth.data.bundle import DataBundle
from anywidth.data.tensor_images import TensorImages

__all__ = ["with_rand_augment"]


def with_rand_augment(bundle: DataBundle, *, magnitude: int = 9) -> DataBundle:
    """Add RandAugment with two operations per image to the training images of a dataset.

    Batch-norm post-statistics still use the images without RandAugment.

    Source: RandAugment (arXiv 1909.13719), as implemented in torchvision.

    Args:
        bundle: The dataset.
        magnitude: Magnitude of the operations, from 0 to 30.

    Raises:
        DataError: the images are in memory but not 8-bit.
    """
    if not 0 <= magnitude <= 30:
        raise DataError(f"RandAugment's magnitude is {magnitude}; give 0 to 30")
    return replace(bundle, train=_augmented(bundle.train, v2.RandAugment(magnitude=magnitude), bundle.name))


def _augmented(images: Dataset[Any], augment: v2.RandAugment, name: str) -> Dataset[Any]:
    if isinstance(images, Subset):
        return Subset(_augmented(images.dataset, augment, name), images.indices)
    changed: Any = copy(images)
    if isinstance(images, TensorImages):
        if images.images.dtype != torch.uint8:
            raise DataError(f"dataset {name!r}: RandAugment needs 8-bit images, not {images.images.dtype}")
        changed.augment = _OneByOne(augment, images.augment)
        return changed
    transform = getattr(images, "transform", None)
    if not isinstance(transform, v2.Compose):
        raise DataError(f"dataset {name!r} has no torchvision transforms to add RandAugment to")
    parts = list(transform.transforms)
    # Crops and mirrors work on images; the transforms after them return tensors.
    end = next((i for i, part in enumerate(parts) if isinstance(part, (v2.PILToTensor, v2.ToImage))), len(parts))
    changed.transform = v2.Compose([*parts[:end], augment, *parts[end:]])
    return changed


class _OneByOne:
    """Batch augmentation followed by RandAugment, which draws once per call and therefore runs image by image."""

    def __init__(self, augment: v2.RandAugment, before: Callable[..., Tensor] | None) -> None:
        self.augment = augment
        self.before = before

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        if self.before is not None:
            images = self.before(images, generator=generator)
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):  # RandAugment draws from torch's global generator
            torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would also reseed the GPUs
            return torch.stack([self.augment(image) for image in images])
