"""Runs: their settings and folders, and the functions that build, train, retrain, resume and evaluate them."""

from typing import TYPE_CHECKING

from anywidth.core.lazy import load_on_use

if TYPE_CHECKING:
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

load_on_use(
    __name__,
    {
        "DataSettings": "anywidth.runs.settings",
        "ModelSettings": "anywidth.runs.settings",
        "OpenRun": "anywidth.runs.open_run",
        "OptimizationSettings": "anywidth.runs.settings",
        "OutputSettings": "anywidth.runs.settings",
        "Reporter": "anywidth.runs.reporter",
        "RunFolder": "anywidth.runs.run_folder",
        "TrainSettings": "anywidth.runs.settings",
        "WidthSettings": "anywidth.runs.settings",
        "open_run": "anywidth.runs.open_run",
        "resume": "anywidth.runs.train",
        "retrain": "anywidth.runs.train",
        "train": "anywidth.runs.train",
    },
)
