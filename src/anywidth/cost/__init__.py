"""What a width costs: multiply-adds, parameters, measured time."""

from anywidth.cost.latency import latency
from anywidth.cost.macs import macs, uncounted_operators
from anywidth.cost.named import Cost, NamedCost, named_cost
from anywidth.cost.params import params

__all__ = ["Cost", "NamedCost", "latency", "macs", "named_cost", "params", "uncounted_operators"]
