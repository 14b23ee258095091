"""Weight initialization of the slimmable papers."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

__all__ = ["initialise"]


def initialise(model: nn.Module) -> None:
    """Initialize every convolution, linear layer and norm of a model, in place.

    Convolutions, including depthwise ones, are normal with standard deviation sqrt(2 / (kernel positions * output
    channels)). Linear layers are normal with standard deviation 0.01. Norms start at scale 1 and shift 0, biases at 0.
    Other parameters keep their values.

    Source: the recipes of US-Nets (arXiv 1903.05134) and AutoSlim (arXiv 1903.11728).

    >>> layer = nn.Conv2d(16, 32, 3)
    >>> initialise(layer)
    >>> 0.07 < layer.weight.std().item() < 0.1
    True
    """
    for module in model.modules():
        if isinstance(module, _ConvNd):
            positions = math.prod(module.kernel_size)
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (positions * module.out_channels)))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
        elif isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm)):
            if module.weight is not None:
                nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
