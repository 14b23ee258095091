"""Runs: settings, run folders, and what builds, trains, retrains, resumes and evaluates them."""

from anywidth.runs.open_run import OpenRun, open_run
from anywidth.runs.reporter import Reporter
from anywidth.runs.run_folder import RunFolder
from anywidth.runs.settings import (
    DataSettings,
    ModelSettings,
    OptimizationSettings,
    OutputSettings,
    TrainSettings,
    WidthSettings,
)
from anywidth.runs.train import resume, retrain, train

__all__ = [
    "DataSettings",
    "ModelSettings",
    "OpenRun",
    "OptimizationSettings",
    "OutputSettings",
    "Reporter",
    "RunFolder",
    "TrainSettings",
    "WidthSettings",
    "open_run",
    "resume",
    "retrain",
    "train",
]
