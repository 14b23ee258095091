"""Transforms of photographs that are read one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from statistics import median

import torch
from torchvision.transforms import v2

from anywidth.core.errors import DataError, ImageError

__all__ = ["MEAN", "STD", "fitting_size", "sampled_sides", "test_transform", "train_transform"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet statistics by color channel, which pretrained networks expect."""


def fitting_size(sides: Iterable[int]) -> int:
    """Target size for images: the median shorter side, rounded down to a multiple of 32, from 32 to 224.

    >>> fitting_size([100, 200, 300]), fitting_size([28]), fitting_size([1000])
    (192, 32, 224)

    Raises:
        DataError: there are no sides.
    """
    found = list(sides)
    if not found:
        raise DataError("no image can be read to choose a size; repair the images, or give an image size")
    return min(max(int(median(found)) // 32 * 32, 32), 224)


def sampled_sides(count: int, side: Callable[[int], int], *, skip_corrupt: bool) -> Iterator[int]:
    """Shorter sides, in pixels, of about 50 images of a dataset, for `fitting_size`.

    Args:
        count: Number of images in the dataset.
        side: Returns the shorter side of the image at an index.
        skip_corrupt: Ignore unreadable images.

    Raises:
        ImageError: `side` raised it, and `skip_corrupt` is off.
    """
    for index in range(0, count, max(1, count // 50)):
        try:
            yield side(index)
        except ImageError:
            if not skip_corrupt:
                raise


def train_transform(size: int) -> v2.Compose:
    """Random resized crop, mirror and normalization; returns `(3, size, size)`."""
    return v2.Compose([v2.RandomResizedCrop(size, antialias=True), v2.RandomHorizontalFlip(), *_to_tensor()])


def test_transform(size: int) -> v2.Compose:
    """Resize, center crop and normalization; returns `(3, size, size)`."""
    # The usual border of 1/8 would cut into the object on small images.
    shorter = size if size <= 64 else round(size / 0.875)
    return v2.Compose([v2.Resize(shorter, antialias=True), v2.CenterCrop(size), *_to_tensor()])


test_transform.__test__ = False  # type: ignore[attr-defined]  # the name begins like a test, but it is not one


def _to_tensor() -> list[torch.nn.Module]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
