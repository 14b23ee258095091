"""Parameter groups with weight decay as in the papers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(
    model: nn.Module, weight_decay: float, *, others: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer, with decay only on ordinary convolution and linear weights.

    Depthwise convolutions, norms, biases, all other parameters and `others` (such as the batch norms of switches) are
    not decayed.

    Source: the recipes of US-Nets (arXiv 1903.05134) and AutoSlim (arXiv 1903.11728).

    >>> groups = parameter_groups(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 2)), 1e-4)
    >>> [(len(group["params"]), group["weight_decay"]) for group in groups]
    [(1, 0.0001), (3, 0.0)]
    """
    decayed, seen = [], set()
    for module in model.modules():
        depthwise = isinstance(module, nn.modules.conv._ConvNd) and module.groups == module.in_channels > 1
        if not isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)) or depthwise:
            continue
        weight = module.weight
        if isinstance(weight, nn.Parameter) and id(weight) not in seen:  # not a tensor that a parametrization computes
            seen.add(id(weight))
            decayed.append(weight)
    rest = [parameter for parameter in model.parameters() if id(parameter) not in seen]
    rest.extend(others)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
