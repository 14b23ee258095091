"""Reproduce the experiments of the papers."""

from anywidth.reproduce.claims import Claim, Verdict, higher
from anywidth.reproduce.context import Context
from anywidth.reproduce.experiment import Experiment, experiment_names, experiments_folder, load_experiment
from anywidth.reproduce.results import NARROWEST, WIDEST, Curve, Difference, Point, Results
from anywidth.reproduce.runner import Record, run_experiment
from anywidth.reproduce.setup import PRESETS, Setup

__all__ = [
    "NARROWEST",
    "PRESETS",
    "WIDEST",
    "Claim",
    "Context",
    "Curve",
    "Difference",
    "Experiment",
    "Point",
    "Record",
    "Results",
    "Setup",
    "Verdict",
    "experiment_names",
    "experiments_folder",
    "higher",
    "load_experiment",
    "run_experiment",
]
