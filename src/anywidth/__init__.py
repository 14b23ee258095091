"""One PyTorch network, trained once, that runs at any width."""

from typing import TYPE_CHECKING

from anywidth.core.lazy import load_on_use

if TYPE_CHECKING:
    from anywidth.batchnorm import calibrate
    from anywidth.core import errors
    from anywidth.core.errors import AnywidthError
    from anywidth.cost import latency, macs, params
    from anywidth.evaluation import evaluate, spectrum
    from anywidth.export import export, export_ladder
    from anywidth.search import autoslim
    from anywidth.supernet import Supernet, load
    from anywidth.training import nested_step, sandwich_step
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
    "nested_step",
    "params",
    "sandwich_step",
    "spectrum",
]

load_on_use(
    __name__,
    {
        "AnywidthError": "anywidth.core.errors",
        "Supernet": "anywidth.supernet",
        "WidthConfig": "anywidth.widths",
        "autoslim": "anywidth.search",
        "calibrate": "anywidth.batchnorm",
        "errors": "anywidth.core",
        "evaluate": "anywidth.evaluation",
        "export": "anywidth.export",
        "export_ladder": "anywidth.export",
        "latency": "anywidth.cost",
        "load": "anywidth.supernet",
        "macs": "anywidth.cost",
        "nested_step": "anywidth.training",
        "params": "anywidth.cost",
        "sandwich_step": "anywidth.training",
        "spectrum": "anywidth.evaluation",
    },
)
