"""Run folder: its files and its state."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from anywidth.core.errors import CheckpointError, TrainingError
from anywidth.core.files import write_atomically
from anywidth.runs.config_file import read_settings, write_settings
from anywidth.runs.dataset_info import DatasetInfo
from anywidth.runs.settings import TrainSettings

if TYPE_CHECKING:
    from anywidth.data import DataBundle

__all__ = ["RunFolder"]

_RESULTS = (
    "supernet.safetensors",
    "supernet.json",
    "metrics.csv",
    "spectrum.csv",
    "spectrum.json",
    "comparison.csv",
    "checkpoints",
)


@dataclass(frozen=True)
class RunFolder:
    """Files that `anywidth train` and `anywidth search` write.

    | file | content |
    |---|---|
    | `config.yaml` | resolved settings, usable with `--config` |
    | `data.json` | dataset: image shape and normalization, number of images, class names |
    | `metrics.csv` | one row per epoch |
    | `supernet.safetensors`, `supernet.json` | weights, batch-norm statistics by width, settings |
    | `spectrum.csv`, `spectrum.json`, `spectrum.png` | accuracy and cost by width |
    | `individual.csv`, `individual.json` | the same for networks trained alone, with `--individual` |
    | `search-COST.json`, `.csv`, `.png` | results and steps of `anywidth search` |
    | `latency.json`, `latency-compiled.json`, `latency-onnx.json` | latency models of searches with these costs |
    | `comparison.csv`, `comparison.json` | results of a found and a uniform network, with `--from-search` |
    | `found.safetensors`, `uniform.safetensors` | their weights, for `anywidth.export.load_dense` |
    | `checkpoints/` | state for `--resume`; removed when the run is complete |
    """

    path: Path

    @classmethod
    def new(cls, settings: TrainSettings) -> RunFolder:
        """Folder for a new run; nothing is created yet.

        Raises:
            TrainingError: the folder contains another run.
        """
        folder = cls(settings.output.folder or _free_name(settings))
        taken = [name for name in _RESULTS if (folder.path / name).exists()]
        if taken:
            go_on = "" if folder.complete else f", or continue this run with --resume {folder.path}"
            raise TrainingError(
                f"{folder.path} already contains a run ({taken[0]}); choose another folder with --out DIR{go_on}"
            )
        if folder.path.exists() and not folder.path.is_dir():
            raise TrainingError(f"{folder.path} is a file; choose a folder with --out DIR")
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Folder of an existing run.

        Raises:
            CheckpointError: the folder does not contain a run.
        """
        if not (path / "config.yaml").is_file():
            raise CheckpointError(
                f"{path} is not a run folder: it has no config.yaml; give one that `anywidth train` wrote"
            )
        return cls(path)

    def file(self, name: str) -> Path:
        """Path of a file in the folder."""
        return self.path / name

    def checkpoint(self, name: str) -> Path:
        """Path of the training checkpoint of one network."""
        return self.path / "checkpoints" / f"{name}.ckpt"

    @property
    def complete(self) -> bool:
        """Whether the run is complete."""
        results = self.file("spectrum.csv"), self.file("comparison.csv")
        return any(file.exists() for file in results) and not self.file("checkpoints").exists()

    @property
    def trained(self) -> bool:
        """Whether the weights of the supernet were saved."""
        return self.checkpoint("supernet").exists() or self.file("spectrum.json").exists()

    @property
    def _begun(self) -> bool:
        """Whether the folder contains anything worth keeping."""
        return any(self.file(name).exists() for name in _RESULTS)

    def kept(self, networks: Iterable[str], epochs: int, *, command: str = "anywidth") -> str:
        """Sentence about what an unfinished training keeps and how to resume it.

        Args:
            networks: Checkpoint names, in the order of training.
            epochs: Number of epochs per network.
            command: Command prefix that starts `train`.
        """
        files = [file for file in map(self.checkpoint, networks) if file.exists()]
        if not files:
            return "Nothing was stored yet, so nothing was kept"
        from anywidth.training.epoch_checkpoint import progress  # needs Lightning, which takes seconds to import

        done = progress(files[-1])
        more = f" and {done.batches} batch{'es' if done.batches > 1 else ''} of the next" if done.batches else ""
        return (
            f"{files[-1]} has {done.epochs} of {epochs} epochs{more}. "
            f"Continue with: {command} train --resume {self.path}"
        )

    @property
    def settings(self) -> TrainSettings:
        """The settings of the run."""
        return read_settings(TrainSettings, self.file("config.yaml"))

    def start(self, settings: TrainSettings, bundle: DataBundle, *, command: str = "anywidth") -> None:
        """Create the folder with `config.yaml` and `data.json`; `command` is the prefix that reruns it.

        Raises:
            DataError: the run is resumed, and its dataset has changed.
        """
        from anywidth import __version__

        header = f"anywidth {__version__}; to run this again: {command} train --config {self.file('config.yaml')}"
        text = write_settings(settings, header=header)
        if self._begun and self.file("data.json").exists():
            self.data().check(bundle)
        info = DatasetInfo.of(bundle)
        write_atomically(self.file("config.yaml"), lambda path: path.write_text(text))
        write_atomically(self.file("data.json"), lambda path: path.write_text(info.json()))

    def data(self) -> DatasetInfo:
        """Description of the dataset.

        Raises:
            CheckpointError: `data.json` is missing or damaged.
        """
        return DatasetInfo.read(self.file("data.json"))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Context manager that locks the folder against other runs and removes it at the end if it is empty.

        Raises:
            TrainingError: another run is writing to the folder.
        """
        lock = FileLock(self.file(".lock"), timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except OSError as error:
            if not isinstance(error, Timeout):
                raise CheckpointError(f"cannot write to {self.path}: {error.strerror or error}") from error
            raise TrainingError(
                f"another run is writing to {self.path}; wait until it ends, or choose another folder with --out DIR"
            ) from error
        try:
            yield
        finally:
            lock.release()
            self.file(".lock").unlink(missing_ok=True)
            if self.path.is_dir() and not any(self.path.iterdir()):
                self.path.rmdir()

    def finish(self) -> None:
        """Remove the files that only `--resume` needs."""
        shutil.rmtree(self.file("checkpoints"), ignore_errors=True)

    def abandon(self) -> None:
        """Remove the folder if no epoch was finished, so that the same command can be run again."""
        if self._begun:
            return
        for name in ("config.yaml", "data.json"):
            self.file(name).unlink(missing_ok=True)


def _free_name(settings: TrainSettings) -> Path:
    kind, _, place = settings.data.source.partition(":")
    data = Path(place).stem if place else kind
    name = f"{data}-{settings.model.name.replace('/', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = Path("runs", name), 2
    while path.exists():
        path, number = Path("runs", f"{name}-{number}"), number + 1
    return path
