"""The order in which images lie in memory."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

__all__ = ["channels_last_"]

M = TypeVar("M", bound=nn.Module)


def channels_last_(model: M) -> M:
    """Lay out the weights of convolutions with channels last, and so all images inside the network; returns the model.

    Nothing else changes, and training is faster, on CPUs and GPUs (`benchmarks/channels_last.py`).

    >>> channels_last_(nn.Conv2d(8, 16, 3)).weight.is_contiguous(memory_format=torch.channels_last)
    True
    """
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
