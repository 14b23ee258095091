"""One interface for everything that a network may cost."""

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
"""`cost(net, config)`: what a width config costs, a finite number above 0. A function of your own may have attributes
`name` and `unit`; see `NamedCost`."""


@dataclass(frozen=True, kw_only=True)
class NamedCost:
    """A cost with a name and a unit, that refuses numbers which make no sense.

    Attributes:
        name: For tables and files.
        unit: Of its values, such as MACs or ms.
        function: The cost itself.

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
        """The cost of a config.

        Raises:
            SearchError: the function gave no finite number above 0.
        """
        value = self.function(net, config)
        # Scalars of numpy and torch are fine, too.
        number = value if isinstance(value, Real) else getattr(value, "item", lambda: math.nan)()
        if isinstance(value, bool) or not isinstance(number, Real) or not math.isfinite(number) or number <= 0:
            raise SearchError(
                f"cost {self.name!r} of config {config.key[:8]} ({sum(config.values())} channels) is {value!r}; "
                f"a cost is a finite number above 0{f' of {self.unit}' if self.unit else ''}"
            )
        return float(number)


def named_cost(cost: Cost) -> NamedCost:
    """Any cost with its name and unit; functions without them go by their own name.

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
