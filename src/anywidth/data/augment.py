"""Augmentation of whole batches.

torchvision's transforms draw the same random numbers for a whole batch, so they have to run image by image. That takes
longer than a training step of a small network.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["random_affine", "random_crop_flip"]


def random_crop_flip(images: Tensor, *, padding: int, generator: torch.Generator | None = None) -> Tensor:
    """Shift each image by its own offset within a black border and mirror it with probability 1/2.

    This is the standard augmentation for small images.

    Args:
        images: `(batch, channels, height, width)`, any numeric dtype; 0 is black.
        padding: Border in pixels on each side, which is also the largest shift.
        generator: Source of random numbers; None uses torch's global generator.

    Returns:
        New images of the same shape and dtype.

    Example:
        >>> random_crop_flip(torch.ones(16, 3, 32, 32), padding=4).shape
        torch.Size([16, 3, 32, 32])
    """
    batch, _, height, width = images.shape
    # Drawn on the generator's device, so that images on a GPU are augmented like those on the CPU.
    top, left = torch.randint(2 * padding + 1, (2, batch), generator=generator).to(images.device)
    mirrored = (torch.rand(batch, generator=generator) < 0.5).to(images.device)
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    cropped = windows[torch.arange(batch, device=images.device), :, top, left]
    return torch.where(mirrored[:, None, None, None], cropped.flip(-1), cropped)


def random_affine(
    images: Tensor, *, degrees: float, scale: float, shift: float, generator: torch.Generator | None = None
) -> Tensor:
    """Rotate, resize and shift each image by its own random amounts, with interpolation and black borders.

    Args:
        images: `(batch, channels, height, width)`, floating point; 0 is black.
        degrees: Largest rotation in either direction.
        scale: Largest relative change of size.
        shift: Largest shift along each axis, in pixels.
        generator: Source of random numbers; None uses torch's global generator.

    Returns:
        New images of the same shape and dtype.

    Example:
        >>> random_affine(torch.ones(16, 1, 8, 8), degrees=10, scale=0.1, shift=0.5).shape
        torch.Size([16, 1, 8, 8])
    """
    batch, _, height, width = images.shape
    draws = (torch.rand(4, batch, generator=generator, dtype=images.dtype) * 2 - 1).to(images.device)
    angle, factor = draws[0] * math.radians(degrees), 1 + draws[1] * scale
    cos, sin = angle.cos() * factor, angle.sin() * factor
    # Affine grids use coordinates from -1 to 1, so one pixel is 2 / size.
    rows = [
        torch.stack([cos, -sin, draws[2] * (2 * shift / width)], 1),
        torch.stack([sin, cos, draws[3] * (2 * shift / height)], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
