"""A network that a search found, trained from scratch, beside a uniformly narrowed one of the same cost."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from anywidth.cli.build import build_data, build_loaders, build_supernet, resolve
from anywidth.cli.corrupt_images import CorruptImages
from anywidth.cli.costs import cost_of_result
from anywidth.cli.device import pick_device
from anywidth.cli.early_end import exit_code
from anywidth.cli.individual import train_individual
from anywidth.cli.options import given_options, read_settings
from anywidth.cli.processes import Processes
from anywidth.cli.progress_bar import ProgressBar
from anywidth.cli.threads import fitting_threads
from anywidth.cli.train_settings import TrainSettings
from anywidth.cli.training_run import open_or_create
from anywidth.core.errors import SearchError
from anywidth.core.processes import broadcast
from anywidth.data import resident
from anywidth.evaluation import Spectrum
from anywidth.report import count, seconds, spectrum_table
from anywidth.search import Evaluated, SearchResult, uniform_costs
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["Retraining"]

_GRID = 201
"""Uniform widths that are tried to match a cost."""


class Retraining:
    """One call of `anywidth train --from-search`, in a new folder or going on in an interrupted one.

    Raises:
        AnywidthError: the file holds no such network, or the folder is in the way; nothing was written.
    """

    def __init__(self, settings: TrainSettings, console: Console, processes: Processes) -> None:
        self.console = console
        self.processes = processes
        self.began = time.perf_counter()
        self.folder, given = broadcast(lambda: open_or_create(settings if settings.resume else _merged(settings)))
        assert given.from_search is not None
        self.device = pick_device(given.device, given.precision, processes=processes)
        self.bundle = resident(build_data(given), self.device)
        self.net = build_supernet(
            given.model, input_shape=self.bundle.input_shape, classes=len(self.bundle.classes), seed=given.seed,
            divisor=given.divisor, min_width=given.min_width, frozen=given.frozen, width_mult=given.width_mult,
        )  # fmt: skip
        self.settings = resolve(given, self.net, self.bundle, processes)
        build_loaders(self.settings, self.bundle)  # refuses what does not fit before anything is written
        self.result = SearchResult.from_json(given.from_search)
        self.found = _network(self.result, given.budget)
        self.net.config(self.found.config)
        self.uniform, uniform_cost = _uniform(self.net, self.result, self.found)
        unit = self.result.unit
        self.console.print(
            f"found: {count(self.found.cost)} {unit}; uniform, width {self.uniform:g}: {count(uniform_cost)} {unit}; "
            f"each {given.epochs} epochs from new weights, label smoothing {given.smoothing:g}"
            + processes.batches(given.batch_size), soft_wrap=True,
        )  # fmt: skip

    def run(self) -> int:
        """Train both networks, print and write the table, and return the exit code.

        Raises:
            AnywidthError: training cannot go on; what was saved is kept.
        """
        broadcast(lambda: self.folder.start(self.settings, self.bundle, command=self.processes.command))
        return exit_code(
            self._work, self.folder, ("found", "uniform"), epochs=self.settings.epochs, stage=lambda: "training",
            processes=self.processes,
        )  # fmt: skip

    def _work(self) -> None:
        file = self.folder.file("comparison.json")
        rows = broadcast(lambda: list(Spectrum.from_json(file)) if file.exists() else [])
        networks: dict[str, Width] = {
            "found": self.found.config, "uniform": self.net.config(self.uniform)
        }  # fmt: skip
        corrupt = CorruptImages()
        self.processes.draw_apart(self.settings.seed)
        with fitting_threads(self.net, self.settings.batch_size):
            for name, width in list(networks.items())[len(rows) :]:
                rows.append(
                    train_individual(
                        self.net, width, self.settings, self.bundle, device=self.device,
                        checkpoint=self.folder.checkpoint(name), progress=ProgressBar(self.console, name),
                        name=name if name == "found" else f"uniform {self.uniform:g}",
                        keep=self.folder.file(f"{name}.safetensors"), corrupt=corrupt,
                    )
                )  # fmt: skip
                curve = Spectrum(rows, "trained from scratch")
                broadcast(partial(curve.to_json, file))
        curve = Spectrum(rows, "trained from scratch")
        broadcast(lambda: (curve.to_csv(self.folder.file("comparison.csv")), self.folder.finish()))
        self.console.print(spectrum_table(curve))
        took = seconds(time.perf_counter() - self.began)
        self.console.print(
            f"results after {took} in {self.folder.path}: comparison.csv, comparison.json, found.safetensors and "
            "uniform.safetensors", soft_wrap=True,
        )  # fmt: skip


def _merged(settings: TrainSettings) -> TrainSettings:
    """The settings of the searched run, where no others were given."""
    assert settings.from_search is not None
    searched = SearchResult.from_json(settings.from_search).about.get("config")
    if not isinstance(searched, str):
        raise SearchError(
            f"{settings.from_search} does not say which model and data it belongs to; give what `anywidth search` wrote"
        )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.yaml")
        file.write_text(searched)
        run = read_settings(TrainSettings, file)
    given = {name: getattr(settings, name) for name in given_options(settings)}
    given["from_search"] = settings.from_search.expanduser().resolve()
    # The networks are trained on all training images, as the search is over.
    return replace(
        run,
        **{
            "init": None,
            "order": None,
            "hold_out": 0.0,
            "keep": "last",
            "early_stop": None,
            "individual": 0,
            "label_smoothing": None,
            **given,
        },
    )


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
