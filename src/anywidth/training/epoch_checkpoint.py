"""Checkpoints of a training: the last state, to resume from, and the best epoch."""

from __future__ import annotations

import math
import pickle
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from anywidth.core.errors import CheckpointError, first_line
from anywidth.core.files import write_atomically
from anywidth.core.processes import broadcast, rank_and_count, several_processes
from anywidth.training.recipe import Recipe

__all__ = ["BestCheckpoint", "EpochCheckpoint", "TrainingProgress", "best_of", "load_weights", "progress"]

_SECONDS = 60.0
_TIMES = 50  # writing takes at most 2 % of the time
_TOGETHER = 32


class EpochCheckpoint(Checkpoint):
    """Stores the state to resume from in one file, written atomically.

    It is replaced after every epoch and, within an epoch, after a minute or 50 times the duration of the last write,
    whichever is longer. The training then resumes after the last batch that was stored.

    Args:
        path: The file.
        within_epochs: Whether to store states within epochs; the loader then has to be able to skip batches.
    """

    def __init__(self, path: Path, *, within_epochs: bool = False) -> None:
        self.path = path
        self.within_epochs = within_epochs
        self._over = False
        self._batches = 0
        self._next = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._next = time.monotonic() + _SECONDS

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Replace the file if it is time, between two optimizer steps."""
        done = batch_idx + 1
        if not self.within_epochs or done >= trainer.num_training_batches or done % getattr(pl_module, "accumulate", 1):
            return
        if not self._is_time(done):
            return
        self._batches = done
        before = time.monotonic()
        _save(trainer, self.path)
        after = time.monotonic()
        self._next = after + max(_SECONDS, _TIMES * (after - before))

    def _is_time(self, done: int) -> bool:
        if not several_processes():
            return time.monotonic() >= self._next
        # All processes write together, and the clock of the first one decides; asking at every batch would cost time.
        return done % _TOGETHER == 0 and broadcast(lambda: time.monotonic() >= self._next)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the file."""
        self._over = trainer.should_stop
        self._batches = 0
        _save(trainer, self.path)

    def state_dict(self) -> dict[str, Any]:
        """World size, because resuming needs the same one; whether the training is finished; batches of this epoch."""
        return {"processes": rank_and_count()[1], "over": self._over, "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume with a different number of processes."""
        before, now = state_dict.get("processes", 1), rank_and_count()[1]
        if before != now:
            raise CheckpointError(
                f"{self.path} belongs to a training with {before} processes, not {now}; resume with {before}"
                + (" (torchrun --nproc-per-node N)" if before > 1 else ", without torchrun")
            )


class BestCheckpoint(Checkpoint):
    """Stores the epoch with the highest value of a logged metric in one file, written atomically."""

    def __init__(self, path: Path, monitor: str) -> None:
        self.path = path
        self.monitor = monitor
        self.best = -math.inf

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the file if this epoch is better."""
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and float(value) > self.best:
            self.best = float(value)
            _save(trainer, self.path)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value."""
        self.best = state_dict["best"]


def _save(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint; all processes take part, and the first one writes."""
    if trainer.is_global_zero:
        write_atomically(path, lambda temporary: trainer.save_checkpoint(temporary))
    else:
        trainer.save_checkpoint(path)


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """How far a training has come.

    Attributes:
        epochs: Number of finished epochs.
        batches: Number of trained batches in the next epoch.
        stopped: Whether it was stopped early.
    """

    epochs: int
    batches: int
    stopped: bool

    def is_over(self, epochs: int) -> bool:
        """Whether the training is finished, after its epochs or by an early stop."""
        return self.stopped or self.epochs >= epochs


def progress(path: Path) -> TrainingProgress:
    """The progress of the training that wrote a checkpoint.

    Raises:
        CheckpointError: the file cannot be read.
    """
    state = _read(path)
    own = state["callbacks"].get(EpochCheckpoint.__name__, {})
    batches = own.get("batches", 0)
    return TrainingProgress(epochs=state["epoch"] + (not batches), batches=batches, stopped=own.get("over", False))


def best_of(path: Path) -> tuple[int, float]:
    """The epoch of a `BestCheckpoint`, counted from 1, and its value.

    Raises:
        CheckpointError: the file cannot be read.
    """
    state = _read(path)
    return state["epoch"] + 1, state["callbacks"][BestCheckpoint.__name__]["best"]


def load_weights(module: Recipe, path: Path) -> None:
    """Load the weights of a checkpoint into a module, in place; their average, if there is one.

    Raises:
        CheckpointError: the file cannot be read.
    """
    state = _read(path)
    try:
        module.load_state_dict(state["state_dict"])
        module.load_others(state)
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path} contains the weights of a different network: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        _ = state["epoch"], state["callbacks"]
        return state
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"cannot continue from {path}: {first_line(error)}; remove it to start again from the first epoch"
        ) from error
