"""Costs of a width: multiply-adds, parameters, activation memory and measured latency."""

from anywidth.cost.activations import activation_memory
from anywidth.cost.latency import latency
from anywidth.cost.latency_model import LatencyModel, fit_latency
from anywidth.cost.macs import macs, progressive_macs, uncounted_operators
from anywidth.cost.named import Cost, NamedCost, named_cost
from anywidth.cost.params import params

__all__ = [
    "Cost",
    "LatencyModel",
    "NamedCost",
    "activation_memory",
    "fit_latency",
    "latency",
    "macs",
    "named_cost",
    "params",
    "progressive_macs",
    "uncounted_operators",
]
