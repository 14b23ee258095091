"""The supernet, its subnets and its checkpoints."""

from anywidth.supernet.checkpoint import load, save
from anywidth.supernet.statistics import Statistics, norm_modules
from anywidth.supernet.subnet import contiguous
from anywidth.supernet.supernet import Supernet

__all__ = ["Statistics", "Supernet", "contiguous", "load", "norm_modules", "save"]
