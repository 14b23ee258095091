"""Checkpoints of a training: after every epoch, to resume from, and of the best epoch."""

from __future__ import annotations

import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from anywidth.core.errors import CheckpointError, first_line
from anywidth.core.files import write_atomically
from anywidth.core.processes import rank_and_count
from anywidth.training.recipe import Recipe

__all__ = ["BestCheckpoint", "EpochCheckpoint", "best_of", "finished_epochs", "is_over", "load_weights"]


class EpochCheckpoint(Checkpoint):
    """Stores the last finished epoch in one file, written atomically."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._over = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the file."""
        self._over = trainer.should_stop
        _save(trainer, self.path)

    def state_dict(self) -> dict[str, Any]:
        """World size, because resuming needs the same one, and whether the training is finished."""
        return {"processes": rank_and_count()[1], "over": self._over}

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


def finished_epochs(path: Path) -> int:
    """The number of finished epochs of a checkpoint.

    Raises:
        CheckpointError: the file cannot be read.
    """
    return _read(path)["epoch"] + 1


def is_over(path: Path, epochs: int) -> bool:
    """Whether the training that wrote a checkpoint is finished, after its epochs or by an early stop.

    Raises:
        CheckpointError: the file cannot be read.
    """
    state = _read(path)
    return state["epoch"] + 1 >= epochs or state["callbacks"].get(EpochCheckpoint.__name__, {}).get("over", False)


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
