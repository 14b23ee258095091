"""The definition of an experiment, and the list of all experiments."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from anywidth.core.errors import AnywidthError
from anywidth.reproduce.claims import Claim
from anywidth.reproduce.context import Context
from anywidth.reproduce.results import Curve, Results
from anywidth.reproduce.setup import PRESETS, Setup

__all__ = ["Cell", "Experiment", "experiment_names", "experiments_folder", "load_experiment"]

Cell = Callable[[Context], Mapping[str, Curve]]
"""One unit of work for one seed: trains its networks and returns curves by arm."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One figure or table of the papers, at a small scale.

    Attributes:
        title: The comparison, for the picture and the list.
        paper: Paper and section.
        claims: The paper's claims, each decided by the results.
        cells: The work by name; every cell is run once per seed.
        columns: The values of x that tables show; all if empty.
        x: Meaning of x.
        y: Meaning of y, with its unit.
        scale: How the picture shows x: linear, logarithmic, or as names.
        against_macs: Whether the picture shows MACs on its axis instead of x.
        average: Whether tables have a column for the mean over all x.
        digits: Decimal places in tables.
        highlight: The arm of every panel to draw in color, if the others are many of the same kind.
        hidden: Prefix of arms that are only in result.json, for separate pictures.
        pictures: Additional pictures by file name; each function draws the results to a path.
        setups: Changes to presets, from config.yaml.
    """

    title: str
    paper: str
    claims: Sequence[Claim]
    cells: Mapping[str, Cell]
    columns: Sequence[float | str] = ()
    x: str = "width"
    y: str = "top-1 accuracy (%)"
    scale: str = "linear"
    against_macs: bool = False
    average: bool = True
    digits: int = 1
    highlight: str = ""
    hidden: str = ""
    pictures: Mapping[str, Callable[[Results, Path], object]] = field(default_factory=dict)
    setups: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def shown(self, results: Results) -> list[str]:
        """The arms that tables and the picture show."""
        return [arm for arm in results.arms if not (self.hidden and arm.startswith(self.hidden))]

    def setup(self, preset: str) -> Setup:
        """The settings of a preset (`digits`, `fashion-mnist`, `cifar`, `full`) with the changes of config.yaml."""
        return PRESETS[preset].changed(**self.setups.get(preset, {}))


def experiments_folder() -> Path:
    """The folder of all experiments: next to `src` in a clone, inside the package when installed.

    Raises:
        AnywidthError: the folder does not exist.
    """
    package = Path(__file__).parents[1]
    for folder in (package.parents[1] / "experiments", package / "experiments"):
        if folder.is_dir():
            return folder
    raise AnywidthError(f"there are no experiments next to {package}; install anywidth again, or run it from a clone")


def experiment_names() -> tuple[str, ...]:
    """The names of all experiments, sorted."""
    return tuple(sorted(path.parent.name for path in experiments_folder().glob("*/experiment.py")))


def load_experiment(name: str) -> Experiment:
    """The experiment with this name, from `experiments/NAME/experiment.py` and its `config.yaml`.

    Raises:
        AnywidthError: there is no experiment with this name.
    """
    folder = experiments_folder() / name
    if name not in experiment_names():
        raise AnywidthError(f"there is no experiment {name!r}; there are {', '.join(experiment_names())}")
    module_name = f"anywidth_experiments_{name.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(module_name, folder / "experiment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    config = folder / "config.yaml"
    setups = yaml.safe_load(config.read_text()) if config.exists() else None
    strange = sorted(set(setups or {}) - set(PRESETS))
    if strange:
        raise AnywidthError(f"{config} has settings for {strange[0]!r}; presets are {', '.join(PRESETS)}")
    return replace(module.EXPERIMENT, setups=setups or {})
