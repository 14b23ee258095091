"""Train, retrain and resume runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anywidth.core.errors import TrainingError
from anywidth.core.processes import broadcast
from anywidth.runs.options import with_options
from anywidth.runs.processes import Processes
from anywidth.runs.reporter import Reporter
from anywidth.runs.settings import TrainSettings

if TYPE_CHECKING:
    from anywidth.runs.retraining import Retraining
    from anywidth.runs.run_folder import RunFolder
    from anywidth.runs.supernet_run import SupernetRun
    from anywidth.runs.trained_run import TrainedRun

__all__ = ["interrupted_run", "new_run", "resume", "retrain", "train"]


def train(
    settings: TrainSettings, *, reporter: Reporter | None = None, processes: Processes | None = None
) -> TrainedRun:
    """Train, calibrate and evaluate a supernet, and write a run folder, like `anywidth train`.

    Args:
        settings: The settings of the run; with `from_search`, the networks of that search are trained.
        reporter: Receives progress messages; by default only warnings are shown.
        processes: The processes that train together in an existing process group; by default this one alone.

    Raises:
        AnywidthError: the settings contradict each other, the folder contains another run, or training failed.
        TrainingInterrupted: Ctrl-C was pressed; `resume` continues from the last state that was stored.
    """
    return new_run(settings, reporter=reporter, processes=processes).run()


def retrain(
    search: Path,
    options: Mapping[str, Any] | None = None,
    *,
    reporter: Reporter | None = None,
    processes: Processes | None = None,
) -> TrainedRun:
    """Train a network that a search found, and a uniformly narrowed one of the same cost, from new weights.

    Args:
        search: The file that `anywidth search` wrote.
        options: Settings that differ from the searched run, by option name: `{"budget": "20e6", "epochs": 10}`.
        reporter: As in `train`.
        processes: As in `train`.

    Raises:
        AnywidthError: as `train`, or the file does not contain such a search.
        TrainingInterrupted: as `train`.
    """
    from anywidth.runs.retraining import retraining_settings

    settings = broadcast(lambda: retraining_settings(search, options or {}))
    return train(settings, reporter=reporter, processes=processes)


def resume(
    path: Path, *, device: str = "auto", reporter: Reporter | None = None, processes: Processes | None = None
) -> TrainedRun:
    """Continue an interrupted run with its own settings.

    Args:
        path: The run folder.
        device: auto, cpu or cuda.
        reporter: As in `train`.
        processes: As in `train`.

    Raises:
        AnywidthError: as `train`, or the folder contains no run or a complete one.
        TrainingInterrupted: as `train`.
    """
    return interrupted_run(path, device=device, reporter=reporter, processes=processes).run()


def new_run(
    settings: TrainSettings, *, reporter: Reporter | None = None, processes: Processes | None = None
) -> SupernetRun | Retraining:
    """New run, ready to start with `run()`. See `train`."""
    from anywidth.runs.run_folder import RunFolder

    folder = broadcast(lambda: RunFolder.new(settings))
    return _run(folder, settings, settings.device, reporter, processes)


def interrupted_run(
    path: Path, *, device: str = "auto", reporter: Reporter | None = None, processes: Processes | None = None
) -> SupernetRun | Retraining:
    """Interrupted run, ready to continue with `run()`. See `resume`."""
    folder, settings = broadcast(lambda: _interrupted(path, device))
    return _run(folder, settings, device, reporter, processes)


def _interrupted(path: Path, device: str) -> tuple[RunFolder, TrainSettings]:
    """Folder and settings of an interrupted run, with the requested device."""
    from anywidth.runs.run_folder import RunFolder

    folder = RunFolder.open(path)
    if folder.complete:
        raise TrainingError(
            f"{path} is complete, so there is nothing to resume; start a new run from its weights with "
            f"--init {path} --order none"
        )
    return folder, folder.settings if device == "auto" else with_options(folder.settings, {"device": device})


def _run(
    folder: RunFolder, settings: TrainSettings, device: str, reporter: Reporter | None, processes: Processes | None
) -> SupernetRun | Retraining:
    from anywidth.runs.device import pick_device
    from anywidth.runs.retraining import Retraining
    from anywidth.runs.supernet_run import SupernetRun

    steps, together = settings.optimization, processes or Processes()
    graphs = steps.graphs and settings.from_search is None
    chosen = pick_device(device, steps.precision, graphs=graphs, processes=together)
    kind = SupernetRun if settings.from_search is None else Retraining
    return kind(folder, settings, device=chosen, reporter=reporter or Reporter(), processes=together)
