"""Run the cells of an experiment, several at a time, and store the result of each."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from anywidth.core.errors import AnywidthError
from anywidth.core.files import write_atomically
from anywidth.reproduce.context import Context
from anywidth.reproduce.experiment import Experiment, load_experiment
from anywidth.reproduce.results import Curve, Point, Results
from anywidth.reproduce.setup import Setup

__all__ = ["Record", "finish", "run_experiment"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished experiment, as stored in `result.json`.

    Attributes:
        name: The folder in `experiments/`.
        setup: The settings, as JSON values.
        results: Curves by arm and seed.
        seconds: Total processor time of all cells.
        about: Versions, machine and date.
        seconds_by_cell: Processor time of each cell with the training of its networks, as a mean over the seeds.
    """

    name: str
    setup: Mapping[str, Any]
    results: Results
    seconds: float
    about: Mapping[str, Any]
    seconds_by_cell: Mapping[str, float] = field(default_factory=dict)

    def to_json(self, path: Path, experiment: Experiment) -> Path:
        """Write the record, with the verdict on every claim."""
        verdicts = [(claim, claim.judge(self.results)) for claim in experiment.claims]
        content = {
            "experiment": self.name,
            "title": experiment.title,
            "paper": experiment.paper,
            "setup": dict(self.setup),
            "seeds": self.results.seeds,
            "seconds": round(self.seconds, 1),
            "seconds_by_cell": {cell: round(number, 1) for cell, number in self.seconds_by_cell.items()},
            "about": dict(self.about),
            "claims": [
                {
                    "text": claim.text, "source": claim.source, "says": verdict.says,
                    "above": claim.above, "difference": verdict.difference.mean,
                    "confidence_95": None if len(self.results.seeds) < 2 else verdict.difference.margin,
                }
                for claim, verdict in verdicts
            ],
            "arms": self.results.as_json(),
        }  # fmt: skip
        text = json.dumps(content, indent=1) + "\n"
        return write_atomically(path, lambda temporary: temporary.write_text(text))

    @classmethod
    def from_json(cls, path: Path) -> Record:
        """Read a file that `to_json` wrote.

        Raises:
            AnywidthError: the file is missing or damaged.
        """
        try:
            content = json.loads(path.read_text())
            return cls(
                name=content["experiment"],
                setup=content["setup"],
                results=Results.from_json(content["arms"], content["seeds"]),
                seconds=content["seconds"],
                seconds_by_cell=content.get("seconds_by_cell", {}),
                about=content["about"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AnywidthError(f"cannot read {path}: {error}; remove it and run the experiment again") from error


def run_experiment(
    name: str,
    setup: Setup,
    folder: Path,
    *,
    device: torch.device,
    data_root: Path,
    jobs: int,
    networks: Path | None = None,
    progress: Callable[[str, int, int], object] = lambda *_: None,
) -> Record:
    """Run every cell for every seed whose results are not yet in `folder`.

    Args:
        name: Name of the experiment.
        setup: Settings of the experiment.
        folder: Folder for finished cells, so that the same call continues after an interruption.
        device: Device to train on.
        data_root: Folder of downloaded datasets.
        jobs: Number of cells to run in parallel, each in a separate process on one thread; 1 runs them in this process.
        networks: Folder of the networks that other experiments can use; by default they are removed by `finish`.
        progress: Called with the name of a finished cell, the number of finished cells and the number of all cells.

    Raises:
        AnywidthError: the folder belongs to a run with other settings.
    """
    import joblib

    experiment = load_experiment(name)
    _claim(folder, name, setup)
    # Seeds in the outer loop: after half of the time, half of the seeds are complete.
    work = [(cell, seed) for seed in range(setup.seeds) for cell in experiment.cells]
    missing = [(cell, seed) for cell, seed in work if not _file(folder, cell, seed).exists()]
    done = len(work) - len(missing)
    calls = (
        joblib.delayed(_run_cell)(name, cell, seed, setup, folder, device, data_root, jobs, networks)
        for cell, seed in missing
    )
    parallel: Any = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    for cell, seed in parallel(calls):
        done += 1
        progress(f"{cell}, seed {seed}", done, len(work))
    cells = [(seed, json.loads(_file(folder, cell, seed).read_text())) for cell, seed in work]
    curves = [(seed, {arm: [Point(**p) for p in points] for arm, points in c["arms"].items()}) for seed, c in cells]
    return Record(
        name=name,
        setup=setup.as_json(),
        results=Results.from_cells(curves),
        seconds=sum(content["seconds"] for _, content in cells),
        seconds_by_cell={
            cell: statistics.fmean(
                content["seconds"] for (name, _), (_, content) in zip(work, cells, strict=True) if name == cell
            )
            for cell in experiment.cells
        },
        about=_about(device, jobs),
    )


def finish(folder: Path) -> None:
    """Remove files that only an interrupted run needs."""
    shutil.rmtree(folder / "cells", ignore_errors=True)


def _run_cell(
    name: str,
    cell: str,
    seed: int,
    setup: Setup,
    folder: Path,
    device: torch.device,
    data_root: Path,
    jobs: int,
    networks: Path | None,
) -> tuple[str, int]:
    """Run one cell and write its curves."""
    if jobs > 1:
        torch.set_num_threads(1)
    start = time.process_time()
    experiment = load_experiment(name)
    state = folder / "cells" / f"{_slug(cell)}-{seed}"
    context = Context(
        setup, seed, device=device, data_root=data_root, folder=state,
        networks=networks or folder / "cells" / "networks",
    )  # fmt: skip
    with warnings.catch_warnings():
        # Warnings of workers would break the progress bar; the same settings warn in `anywidth train`.
        warnings.simplefilter("ignore")
        arms: Mapping[str, Curve] = experiment.cells[cell](context)
    content = {
        "seconds": time.process_time() - start + context.reused_seconds,
        "arms": {arm: [{"x": p.x, "y": p.y, "macs": p.macs} for p in curve] for arm, curve in arms.items()},
    }
    write_atomically(_file(folder, cell, seed), lambda path: path.write_text(json.dumps(content)))
    shutil.rmtree(state, ignore_errors=True)
    return cell, seed


def _claim(folder: Path, name: str, setup: Setup) -> None:
    """Claim the folder for this experiment and these settings."""
    file = folder / "cells" / "setup.json"
    wanted = json.dumps({"experiment": name, **setup.as_json()}, indent=1)
    if file.exists() and file.read_text() != wanted:
        raise AnywidthError(
            f"{folder} contains an unfinished run of another experiment or with other settings; "
            "choose another folder with --out DIR, or remove it"
        )
    write_atomically(file, lambda path: path.write_text(wanted))


def _file(folder: Path, cell: str, seed: int) -> Path:
    return folder / "cells" / f"{_slug(cell)}-{seed}.json"


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "." else "-" for letter in text)


def _about(device: torch.device, jobs: int) -> dict[str, Any]:
    from anywidth import __version__

    machine = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    )
    return {
        "anywidth": __version__, "torch": torch.__version__, "python": platform.python_version(), "machine": machine,
        "cores": os.cpu_count(), "processes": jobs, "day": time.strftime("%Y-%m-%d"),
    }  # fmt: skip
