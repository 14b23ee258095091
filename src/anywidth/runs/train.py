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
    """Train a supernet, calibrate and evaluate it, and write a run folder, as `anywidth train` does.

    Args:
        settings: Of the run; with `from_search`, the networks of that search are trained.
        reporter: Receives what is done; by default only warnings are shown.
        processes: Those that train together, in a process group that exists; by default this one alone.

    Raises:
        AnywidthError: the settings do not fit together, the folder holds another run, or training cannot go on.
        TrainingInterrupted: Ctrl-C was pressed; `resume` continues from the last finished epoch.
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
        options: What differs from the searched run, by option name: `{"budget": "20e6", "epochs": 10}`.
        reporter: As in `train`.
        processes: As in `train`.

    Raises:
        AnywidthError: as `train`, or the file holds no such search.
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
        path: Its folder.
        device: auto, cpu or cuda.
        reporter: As in `train`.
        processes: As in `train`.

    Raises:
        AnywidthError: as `train`, or there is no run, or it is complete.
        TrainingInterrupted: as `train`.
    """
    return interrupted_run(path, device=device, reporter=reporter, processes=processes).run()


def new_run(
    settings: TrainSettings, *, reporter: Reporter | None = None, processes: Processes | None = None
) -> SupernetRun | Retraining:
    """A run that is ready to start; `run()` starts it. See `train`."""
    from anywidth.runs.run_folder import RunFolder

    folder = broadcast(lambda: RunFolder.new(settings))
    return _run(folder, settings, settings.device, reporter, processes)


def interrupted_run(
    path: Path, *, device: str = "auto", reporter: Reporter | None = None, processes: Processes | None = None
) -> SupernetRun | Retraining:
    """An interrupted run that is ready to go on; `run()` continues it. See `resume`."""
    folder, settings = broadcast(lambda: _interrupted(path, device))
    return _run(folder, settings, device, reporter, processes)


def _interrupted(path: Path, device: str) -> tuple[RunFolder, TrainSettings]:
    """The folder of an interrupted run, and its settings with the device that is asked for."""
    from anywidth.runs.run_folder import RunFolder

    folder = RunFolder.open(path)
    if folder.complete:
        raise TrainingError(
            f"{path} is complete, there is nothing to resume; start another run, from its weights with "
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
