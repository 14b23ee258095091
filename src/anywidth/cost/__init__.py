"""What a width costs: multiply-adds, parameters, measured time."""

from anywidth.cost.latency import latency
from anywidth.cost.macs import macs, uncounted_operators
from anywidth.cost.params import params

__all__ = ["latency", "macs", "params", "uncounted_operators"]
