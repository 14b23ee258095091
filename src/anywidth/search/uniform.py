"""Uniform networks, for comparison with searched ones."""

from __future__ import annotations

from collections.abc import Callable

from anywidth.evaluation import width_grid
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig

__all__ = ["uniform_costs"]


def uniform_costs(net: Supernet, cost: Callable[[WidthConfig], float], count: int) -> dict[float, float]:
    """Costs of evenly spaced uniform widths; widths that round to the same config are listed once, by the narrowest.

    Args:
        net: The supernet.
        cost: Cost of a config.
        count: Number of widths.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 2)), torch.randn(1, 4))
    >>> uniform_costs(net, lambda config: float(config["0"]), 4)
    {0.25: 8.0, 0.5: 16.0, 0.75: 24.0, 1.0: 32.0}
    """
    widths: dict[WidthConfig, float] = {}
    for width in width_grid(net.min_width, count):
        widths.setdefault(net.config(width), width)
    return {width: cost(config) for config, width in widths.items()}
