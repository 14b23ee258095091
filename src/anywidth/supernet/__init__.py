"""The supernet, its subnets and its checkpoints."""

from anywidth.supernet.autocast_weights import castable, record_autocast
from anywidth.supernet.checkpoint import load, save
from anywidth.supernet.record import follow_mode
from anywidth.supernet.statistics import Statistics, norm_modules
from anywidth.supernet.subnet import contiguous, gradients_together
from anywidth.supernet.supernet import Supernet

__all__ = [
    "Statistics",
    "Supernet",
    "castable",
    "contiguous",
    "follow_mode",
    "gradients_together",
    "load",
    "norm_modules",
    "record_autocast",
    "save",
]
