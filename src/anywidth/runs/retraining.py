"""Training from scratch of a network that a search found and of a uniform network of the same cost."""

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
    """Training of a found and a uniform network, in a new folder or resumed.

    Args:
        folder: The run folder.
        settings: The settings of the run.
        device: The device to train on.
        reporter: Receives progress messages.
        processes: The processes that train together.

    Raises:
        AnywidthError: the file does not contain such a network; nothing was written.
    """

    def __init__(
        self, folder: RunFolder, settings: TrainSettings, *, device: torch.device, reporter: Reporter,
        processes: Processes,
    ) -> None:  # fmt: skip
        self.folder, self.device, self.reporter, self.processes = folder, device, reporter, processes
        assert settings.from_search is not None
        self.bundle = resident(build_data(settings), self.device)
        # Both networks are trained as ordinary networks.
        widths = replace(settings.widths, switches=None, nested=None, nested_norm="none", average_inputs=False)
        self.net = build_supernet(
            settings.model, widths, input_shape=self.bundle.input_shape, classes=len(self.bundle.classes),
            seed=settings.seed,
        )  # fmt: skip
        self.settings = resolve(settings, self.net, self.bundle, processes)
        build_loaders(self.settings, self.bundle)  # raises before anything is written
        self.result = SearchResult.from_json(settings.from_search)
        self.found = _network(self.result, settings.budget)
        self.net.config(self.found.config)
        self.uniform, uniform_cost = _uniform(self.net, self.result, self.found)
        unit = self.result.unit
        reporter.info(
            f"found: {count(self.found.cost)} {unit}; uniform (width {self.uniform:g}): {count(uniform_cost)} {unit}; "
            f"{settings.optimization.epochs} epochs each from scratch, label smoothing {settings.label_smoothing:g}"
            + processes.batches(settings.data.batch_size)
        )

    def run(self) -> TrainedRun:
        """Train both networks, or those that an interrupted run has not finished.

        Raises:
            AnywidthError: training failed; saved checkpoints are kept.
            TrainingInterrupted: Ctrl-C was pressed; saved checkpoints are kept.
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
        self.processes.offset_seed(self.settings.seed)
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
    """Settings of a searched run, adapted to train the network that the search found.

    Args:
        search: The file that `anywidth search` wrote.
        options: Changed values by option name, such as `{"budget": "20e6", "epochs": 10}`.

    Raises:
        SearchError: the file does not contain a search of a run.
        SettingsError: the options contradict each other.
    """
    searched = SearchResult.from_json(search).about.get("config")
    if not isinstance(searched, str):
        raise SearchError(f"{search} does not name its model and data; use a file written by `anywidth search`")
    run = parse_settings(TrainSettings, searched, source=search)
    # The search is over, so the networks train on all training images.
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
        raise SearchError(f"the search found networks for several budgets, {known}; choose one with --budget")
    return result.found[0].network


def _uniform(net: Supernet, result: SearchResult, found: Evaluated) -> tuple[float, float]:
    """Uniform width whose cost is closest to the found network's, and its cost."""
    cost = cost_of_result(result)
    # Results carry their latency model; measuring again would be slow.
    costs = uniform_costs(net, lambda config: cost(net, config), _GRID)
    nearest = min(costs, key=lambda width: abs(costs[width] - found.cost))
    return nearest, costs[nearest]
