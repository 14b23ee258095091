"""Small datasets in the memory of the training device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from anywidth.data.bundle import DataBundle
from anywidth.data.tensor_images import TensorImages

__all__ = ["resident"]

_LARGEST = 4 * 2**30
"""Largest number of bytes of images to move to the device; the rest of its memory is left to the network."""


def resident(bundle: DataBundle, device: torch.device) -> DataBundle:
    """Move a dataset's images to a device, if they are in memory and take at most 4 GiB.

    They are then batched, augmented and normalized on the device; doing this on the CPU keeps a GPU waiting.

    Args:
        bundle: The dataset.
        device: The training device.

    >>> from anywidth.data import load_data
    >>> resident(load_data("digits"), torch.device("cpu")).train.images.device
    device(type='cpu')
    """
    parts: list[Any] = list({id(part): part for part in (bundle.train, bundle.test, bundle.calibration)}.values())
    if device.type == "cpu" or not all(isinstance(part, TensorImages) for part in parts):
        return bundle
    if sum(part.images.nbytes for part in parts) > _LARGEST:
        return bundle
    moved = {id(part): part.to(device) for part in parts}
    return replace(
        bundle, train=moved[id(bundle.train)], test=moved[id(bundle.test)], calibration=moved[id(bundle.calibration)]
    )  # fmt: skip
