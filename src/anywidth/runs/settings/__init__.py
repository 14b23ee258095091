"""Settings of a run, grouped by owner."""

from anywidth.runs.settings.data import DataSettings
from anywidth.runs.settings.model import ModelSettings
from anywidth.runs.settings.optimization import OptimizationSettings
from anywidth.runs.settings.output import OutputSettings
from anywidth.runs.settings.train import Device, TrainSettings
from anywidth.runs.settings.widths import WidthSettings

__all__ = [
    "DataSettings",
    "Device",
    "ModelSettings",
    "OptimizationSettings",
    "OutputSettings",
    "TrainSettings",
    "WidthSettings",
]
