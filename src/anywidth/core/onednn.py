"""Convolutions whose weight gradients oneDNN computes wrongly on a CPU.

oneDNN copies the images of a strided convolution with kernel 1 to a workspace. With channels last and fewer input
channels than one block of its kernel (8 with AVX2, 16 with AVX-512), it writes past the end of that workspace: the
gradients of the weights are wrong, or the process hangs or crashes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BLOCK", "ISSUE", "is_channels_last", "strided_pointwise"]

BLOCK = 16
"""Input channels from which on the gradients are right on every CPU."""
ISSUE = "https://github.com/uxlfoundation/oneDNN/issues/6035"


def strided_pointwise(model: nn.Module) -> tuple[str, ...]:
    """Paths of the 2-d convolutions with kernel 1, a stride and one group. Other convolutions are not affected.

    >>> strided_pointwise(nn.Sequential(nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, 2)))
    ('0',)
    """
    return tuple(
        path
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        and tuple(module.kernel_size) == (1, 1)
        and max(module.stride) > 1
        and module.groups == 1
    )


def is_channels_last(tensor: Tensor) -> bool:
    """Whether PyTorch takes a tensor for one in the channels-last memory format.

    The strides decide: the weight of a convolution with kernel 1 is contiguous in both formats.

    >>> weight = torch.ones(8, 4, 1, 1)
    >>> is_channels_last(weight), is_channels_last(weight.to(memory_format=torch.channels_last))
    (False, True)
    """
    return (
        tensor.ndim == 4
        and tensor.layout == torch.strided
        and tensor.shape[1:].numel() > 1
        and tensor.stride(1) == 1
        and tensor.stride(3) == tensor.shape[1]
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
