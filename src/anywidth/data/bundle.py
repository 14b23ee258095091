"""A loaded dataset: training, test and calibration images."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from anywidth.core.errors import DataError

__all__ = ["DataBundle"]


@dataclass(frozen=True, kw_only=True)
class DataBundle:
    """Dataset for image classification, split and ready for batching.

    Each item is an image, a float tensor `(channels, height, width)`, and its label, an integer from 0 to
    `len(classes) - 1`.

    Attributes:
        name: Dataset name that the bundle was loaded from.
        train: Training images with the training transforms.
        test: Images for reporting accuracy, which are never trained on.
        calibration: Training images with the training transforms, for batch-norm post-statistics; may be the same
            object as `train`.
        input_shape: `(channels, height, width)` of one image.
        classes: Class names, in the order of the labels.

    Raises:
        DataError: A part is empty, there are no classes, or the input shape is not three positive sizes.

    Example:
        >>> import torch
        >>> from anywidth.data import DataBundle, TensorImages
        >>> images = TensorImages(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 0, 1]))
        >>> bundle = DataBundle(name="mine", train=images, test=images, calibration=images,
        ...                     input_shape=(3, 8, 8), classes=("cat", "dog"))
        >>> len(bundle.classes)
        2
    """

    name: str
    train: Dataset[Any]
    test: Dataset[Any]
    calibration: Dataset[Any]
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for part in ("train", "test", "calibration"):
            images = getattr(self, part)
            if not isinstance(images, Sized):
                raise DataError(f"dataset {self.name!r}: {part} has no length; give a map-style dataset")
            if len(images) == 0:
                raise DataError(f"dataset {self.name!r}: {part} is empty; give at least one image")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise DataError(
                f"dataset {self.name!r}: input_shape is {self.input_shape}; "
                "give (channels, height, width), each at least 1"
            )
        if not self.classes:
            raise DataError(f"dataset {self.name!r} has no class names; give one name per label")
