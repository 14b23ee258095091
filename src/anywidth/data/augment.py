"""Random crop and mirror of a whole batch at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["random_crop_flip"]


def random_crop_flip(images: Tensor, *, padding: int, generator: torch.Generator | None = None) -> Tensor:
    """The images, each shifted by its own offset within a black border and mirrored with probability 1/2.

    The standard augmentation of small images. torchvision's transforms draw one offset for a whole batch,
    so they can only be applied image by image, which takes longer than a small network's training step.

    Args:
        images: `(batch, channels, height, width)`, of any number type; 0 is black.
        padding: Pixels of border on every side, hence the largest shift.
        generator: Where the random numbers come from; None is torch's global generator.

    Returns:
        New images of the same shape and type.

    Example:
        >>> random_crop_flip(torch.ones(16, 3, 32, 32), padding=4).shape
        torch.Size([16, 3, 32, 32])
    """
    batch, _, height, width = images.shape
    top, left = torch.randint(2 * padding + 1, (2, batch), generator=generator)
    mirrored = torch.rand(batch, generator=generator) < 0.5
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    cropped = windows[torch.arange(batch), :, top, left]
    return torch.where(mirrored[:, None, None, None], cropped.flip(-1), cropped)
