"""What every data set gives: the images to train on, to test on and to calibrate with."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from anywidth.core.errors import DataError

__all__ = ["DataBundle"]


@dataclass(frozen=True, kw_only=True)
class DataBundle:
    """One data set for image classification, split and ready for batches.

    Every item of the three data sets is an image, a float tensor `(channels, height, width)`, and its
    label, an integer from 0 to `len(classes) - 1`.

    Attributes:
        name: The spec that the bundle was loaded from.
        train: The training images, with the training transforms.
        test: The images to report accuracy on, which are never trained on.
        calibration: The training images, with the training transforms, for batch-norm post-statistics; it may
            be the same object as `train`.
        input_shape: The `(channels, height, width)` of one image.
        classes: The name of each class, in the order of the labels.

    Raises:
        DataError: If a part is empty, there is no class, or the input shape is not three positive sizes.

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
                raise DataError(f"data set {self.name!r}: {part} has no length; give a map-style data set")
            if len(images) == 0:
                raise DataError(f"data set {self.name!r}: {part} holds no image; give at least one")
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise DataError(
                f"data set {self.name!r}: input_shape is {self.input_shape}; "
                "give (channels, height, width), each at least 1"
            )
        if not self.classes:
            raise DataError(f"data set {self.name!r} names no class; give one name per label")
