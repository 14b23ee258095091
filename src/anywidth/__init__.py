"""One PyTorch network, trained once, that runs at any width."""

from anywidth.batchnorm import calibrate
from anywidth.core import errors
from anywidth.core.errors import AnywidthError
from anywidth.cost import latency, macs, params
from anywidth.evaluation import evaluate, spectrum
from anywidth.export import export, export_ladder
from anywidth.search import autoslim
from anywidth.supernet import Supernet, load
from anywidth.training import sandwich_step
from anywidth.widths import WidthConfig

__version__ = "0.1.0"

__all__ = [
    "AnywidthError",
    "Supernet",
    "WidthConfig",
    "autoslim",
    "calibrate",
    "errors",
    "evaluate",
    "export",
    "export_ladder",
    "latency",
    "load",
    "macs",
    "params",
    "sandwich_step",
    "spectrum",
]
