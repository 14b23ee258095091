"""Mean and standard deviation of each channel."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["channel_statistics"]


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, in pixel units.

    A constant channel gets the standard deviation 1, so that division by it has no effect.

    Args:
        images: `(images, channels, height, width)`, uint8 or floating point.

    Returns:
        Two float32 tensors of shape `(channels,)`.

    Example:
        >>> channel_statistics(torch.tensor([0, 4], dtype=torch.uint8).view(1, 1, 1, 2))
        (tensor([2.]), tensor([2.]))
    """
    if images.dtype == torch.uint8:
        pairs = [_byte_statistics(images[:, channel]) for channel in range(images.shape[1])]
        mean, std = (torch.stack(values) for values in zip(*pairs, strict=True))
    else:
        std, mean = torch.std_mean(images, dim=(0, 2, 3), correction=0)
    return mean.float(), torch.where(std > 0, std, torch.ones_like(std)).float()


def _byte_statistics(pixels: Tensor) -> tuple[Tensor, Tensor]:
    # A histogram is exact, and avoids a floating-point copy of the images.
    counts = torch.bincount(pixels.reshape(-1), minlength=256).double()
    values = torch.arange(256, dtype=torch.float64)
    mean = (counts * values).sum() / counts.sum()
    variance = (counts * (values - mean).square()).sum() / counts.sum()
    return mean, variance.sqrt()
