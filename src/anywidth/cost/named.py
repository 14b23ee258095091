"""Costs with a name and a unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from anywidth.core.errors import SearchError
from anywidth.cost.activations import activation_memory
from anywidth.cost.latency import latency
from anywidth.cost.macs import macs
from anywidth.cost.params import params
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig

__all__ = ["Cost", "NamedCost", "named_cost"]

Cost = Callable[[Supernet, Any], float]
"""`cost(net, config)`: the cost of a width config, a finite number above 0. A custom function may have attributes
`name` and `unit`; see `NamedCost`."""


@dataclass(frozen=True, kw_only=True)
class NamedCost:
    """A cost with a name and a unit; raises for values that are not finite or not above 0.

    Attributes:
        name: Name in tables and files.
        unit: Unit of the values, such as MACs or ms.
        function: The cost function.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> energy = NamedCost(name="energy", unit="nJ", function=lambda net, config: 0.5 * macs(net, config))
    >>> energy(net, net.config(0.5))
    24.0
    """

    name: str
    unit: str
    function: Cost

    def __call__(self, net: Supernet, config: WidthConfig) -> float:
        """Cost of a config.

        Raises:
            SearchError: the value is not a finite number above 0.
        """
        value = self.function(net, config)
        # NumPy and torch scalars are accepted as well.
        number = value if isinstance(value, Real) else getattr(value, "item", lambda: math.nan)()
        if isinstance(value, bool) or not isinstance(number, Real) or not math.isfinite(number) or number <= 0:
            raise SearchError(
                f"cost {self.name!r} of config {config.key[:8]} ({sum(config.values())} channels) is {value!r}; "
                f"a cost must be a finite number above 0{f' of {self.unit}' if self.unit else ''}"
            )
        return float(number)


def named_cost(cost: Cost) -> NamedCost:
    """Any cost with its name and unit; a function without them is named after itself.

    >>> named_cost(macs).unit, named_cost(lambda net, config: 1.0).name
    ('MACs', '<lambda>')
    """
    if isinstance(cost, NamedCost):
        return cost
    known: tuple[tuple[Any, str, str], ...] = (
        (macs, "macs", "MACs"),
        (params, "params", "parameters"),
        (latency, "latency", "ms"),
        (activation_memory, "memory", "bytes"),
    )
    own = (getattr(cost, "name", None) or getattr(cost, "__name__", "cost"), "")
    name, unit = next(((name, unit) for function, name, unit in known if function is cost), own)
    return NamedCost(name=str(name), unit=str(getattr(cost, "unit", unit)), function=cost)
