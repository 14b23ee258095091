"""Parameters of a width, counted without building it."""

from __future__ import annotations

import math

from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["params"]


def params(net: Supernet, width: Width = 1.0) -> int:
    """Number of parameters of a width. Shared parameters count once; buffers, such as statistics, do not count.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> params(net), params(net, 0.5)
    (114, 58)
    """
    blocks = net.analysis.blocks(net.config(width))
    total = 0
    for name, parameter in net.model.named_parameters():
        kept = net.analysis.kept(net.analysis.names[name], blocks)
        sizes = zip(parameter.shape, kept, strict=True)
        total += math.prod(size if k is None else k if isinstance(k, int) else len(k) for size, k in sizes)
    return total
