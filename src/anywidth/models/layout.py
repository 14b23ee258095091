"""Memory format of images and weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from anywidth.core.onednn import BLOCK, strided_pointwise

__all__ = ["channels_last_"]

M = TypeVar("M", bound=nn.Module)


def channels_last_(model: M, *, narrowest: nn.Module | None = None) -> M:
    """Use the channels-last memory format for a model's convolutions where it is safe, in place; returns the model.

    Images inside the network follow it. Results stay the same, and training is faster on CPUs and GPUs
    (`benchmarks/channels_last.py`).

    The format becomes the contiguous one if a convolution with kernel 1 and a stride reads fewer than 16 channels: on a
    CPU, oneDNN computes wrong gradients of its weights with channels last
    (https://github.com/uxlfoundation/oneDNN/issues/6035). This also applies to a model on a GPU, because it may be
    moved to a CPU.

    Args:
        model: Any module.
        narrowest: The narrowest network that is trained inside the model, such as `net.subnet(net.min_width)`, whose
            channels count. By default the model itself.

    >>> channels_last_(nn.Conv2d(8, 16, 3)).weight.is_contiguous(memory_format=torch.channels_last)
    True
    >>> channels_last_(nn.Conv2d(8, 16, 1, stride=2)).weight.stride()
    (8, 1, 1, 1)
    """
    narrow = model if narrowest is None else narrowest
    channels = [getattr(narrow.get_submodule(path), "in_channels", BLOCK) for path in strided_pointwise(narrow)]
    safe = min(channels, default=BLOCK) >= BLOCK
    layout = torch.channels_last if safe else torch.contiguous_format
    return model.to(memory_format=layout)  # type: ignore[call-overload]
