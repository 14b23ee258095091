"""A network that a search found, trained from scratch, beside a uniformly narrowed one of the same cost."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from anywidth.core.errors import SearchError
from anywidth.core.processes import broadcast
from anywidth.data import resident
from anywidth.evaluation import Spectrum
from anywidth.report import count
from anywidth.runs.config_file import parse_settings
from anywidth.runs.corrupt_images import CorruptImages
from anywidth.runs.costs import cost_of_result
from anywidth.runs.data import build_data, build_loaders
from anywidth.runs.early_end import early_end
from anywidth.runs.individual import train_individual
from anywidth.runs.options import with_options
from anywidth.runs.processes import Processes
from anywidth.runs.reporter import Reporter
from anywidth.runs.resolve import resolve
from anywidth.runs.run_folder import RunFolder
from anywidth.runs.settings import TrainSettings
from anywidth.runs.supernet import build_supernet
from anywidth.runs.threads import fitting_threads
from anywidth.runs.trained_run import TrainedRun
from anywidth.search import Evaluated, SearchResult, uniform_costs
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["Retraining", "retraining_settings"]

_GRID = 201
"""Uniform widths that are tried to match a cost."""


class Retraining:
    """The training of a found and a uniform network, in a new folder or continuing an interrupted one.

    Args:
        folder: Of the run.
        settings: Of the run.
        device: Where to train.
        reporter: Receives what is done.
        processes: Those that train together.

    Raises:
        AnywidthError: the file holds no such network; nothing was written.
    """

    def __init__(
        self, folder: RunFolder, settings: TrainSettings, *, device: torch.device, reporter: Reporter,
        processes: Processes,
    ) -> None:  # fmt: skip
        self.folder, self.device, self.reporter, self.processes = folder, device, reporter, processes
        assert settings.from_search is not None
        self.bundle = resident(build_data(settings), self.device)
        # Both networks are trained as plain ones.
        widths = replace(settings.widths, switches=None, average_inputs=False)
        self.net = build_supernet(
            settings.model, widths, input_shape=self.bundle.input_shape, classes=len(self.bundle.classes),
            seed=settings.seed,
        )  # fmt: skip
        self.settings = resolve(settings, self.net, self.bundle, processes)
        build_loaders(self.settings, self.bundle)  # refuses what does not fit before anything is written
        self.result = SearchResult.from_json(settings.from_search)
        self.found = _network(self.result, settings.budget)
        self.net.config(self.found.config)
        self.uniform, uniform_cost = _uniform(self.net, self.result, self.found)
        unit = self.result.unit
        reporter.info(
            f"found: {count(self.found.cost)} {unit}; uniform, width {self.uniform:g}: {count(uniform_cost)} {unit}; "
            f"each {settings.optimization.epochs} epochs from new weights, label smoothing {settings.label_smoothing:g}"
            + processes.batches(settings.data.batch_size)
        )

    def run(self) -> TrainedRun:
        """Train both networks, or the one that an interrupted run lacks.

        Raises:
            AnywidthError: training cannot go on; what was saved is kept.
            TrainingInterrupted: Ctrl-C was pressed; what was saved is kept.
        """
        with ExitStack() as stack:
            broadcast(lambda: stack.enter_context(self.folder.locked()))
            broadcast(lambda: self.folder.start(self.settings, self.bundle, command=self.processes.command))
            stack.enter_context(
                early_end(
                    self.folder, ("found", "uniform"), epochs=self.settings.optimization.epochs,
                    stage=lambda: "training", processes=self.processes,
                )
            )  # fmt: skip
            return self._work()

    def _work(self) -> TrainedRun:
        file = self.folder.file("comparison.json")
        rows = broadcast(lambda: list(Spectrum.from_json(file)) if file.exists() else [])
        networks: dict[str, Width] = {
            "found": self.found.config, "uniform": self.net.config(self.uniform)
        }  # fmt: skip
        corrupt = CorruptImages(self.reporter)
        self.processes.draw_apart(self.settings.seed)
        with fitting_threads(self.net, self.settings.data.batch_size):
            for name, width in list(networks.items())[len(rows) :]:
                rows.append(
                    train_individual(
                        self.net, width, self.settings, self.bundle, device=self.device,
                        checkpoint=self.folder.checkpoint(name), progress=self.reporter.training(name),
                        name=name if name == "found" else f"uniform {self.uniform:g}",
                        keep=self.folder.file(f"{name}.safetensors"), corrupt=corrupt,
                    )
                )  # fmt: skip
                curve = Spectrum(rows, "trained from scratch")
                broadcast(partial(curve.to_json, file))
        curve = Spectrum(rows, "trained from scratch")
        broadcast(lambda: (curve.to_csv(self.folder.file("comparison.csv")), self.folder.finish()))
        files = ("comparison.csv", "comparison.json", "found.safetensors", "uniform.safetensors")
        return TrainedRun(folder=self.folder, spectrum=curve, files=files)


def retraining_settings(search: Path, options: Mapping[str, Any]) -> TrainSettings:
    """The settings of a searched run, changed to train what the search found.

    Args:
        search: The file that `anywidth search` wrote.
        options: Other values, by option name, such as `{"budget": "20e6", "epochs": 10}`.

    Raises:
        SearchError: the file holds no search of a run.
        SettingsError: the options do not fit together.
    """
    searched = SearchResult.from_json(search).about.get("config")
    if not isinstance(searched, str):
        raise SearchError(
            f"{search} does not say which model and data it belongs to; give what `anywidth search` wrote"
        )
    run = parse_settings(TrainSettings, searched, source=search)
    # The networks are trained on all training images, as the search is over.
    new = {
        "init": None, "order": None, "hold_out": 0.0, "keep": "last", "early_stop": None, "individual": 0,
        "label_smoothing": None,
    }  # fmt: skip
    return with_options(run, {**new, **options, "from_search": search.expanduser().resolve()})


def _network(result: SearchResult, budget: str | None) -> Evaluated:
    if budget is not None:
        return result.network(budget)
    if len(result.found) != 1:
        known = ", ".join(str(item.budget) for item in result.found) or "none"
        raise SearchError(f"the search has networks for several budgets, {known}; choose one with --budget")
    return result.found[0].network


def _uniform(net: Supernet, result: SearchResult, found: Evaluated) -> tuple[float, float]:
    """The uniform width whose cost is nearest to that of the found network, and its cost."""
    cost = cost_of_result(result)
    # A measured cost would be slow, but results carry the model that it was made with.
    costs = uniform_costs(net, lambda config: cost(net, config), _GRID)
    nearest = min(costs, key=lambda width: abs(costs[width] - found.cost))
    return nearest, costs[nearest]
