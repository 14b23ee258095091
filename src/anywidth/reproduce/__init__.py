"""The experiments of the papers, run again."""

from anywidth.reproduce.claims import Claim, Verdict, higher
from anywidth.reproduce.experiment import Experiment, experiment_names, experiments_folder, load_experiment
from anywidth.reproduce.lab import Lab
from anywidth.reproduce.results import NARROWEST, WIDEST, Curve, Difference, Point, Results
from anywidth.reproduce.runner import Record, run_experiment
from anywidth.reproduce.setup import PRESETS, Setup

__all__ = [
    "NARROWEST",
    "PRESETS",
    "WIDEST",
    "Claim",
    "Curve",
    "Difference",
    "Experiment",
    "Lab",
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
