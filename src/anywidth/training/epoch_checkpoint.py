"""The state of a training after every epoch, to go on from, and that of the best epoch."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from anywidth.distributed import rank_and_count
from anywidth.errors import CheckpointError
from anywidth.supernet.checkpoint import write_atomically

__all__ = ["BestCheckpoint", "EpochCheckpoint", "finished_epochs", "load_weights"]


class EpochCheckpoint(Checkpoint):
    """Keeps the last finished epoch in one file, which is never half written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the file."""
        _save(trainer, self.path)

    def state_dict(self) -> dict[str, Any]:
        """How many processes trained: with another number, batches and steps are others."""
        return {"processes": rank_and_count()[1]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with another number of processes."""
        before, now = state_dict.get("processes", 1), rank_and_count()[1]
        if before != now:
            raise CheckpointError(
                f"{self.path} is of a training by {before} processes and this is one by {now}; go on with {before}"
                + (" (torchrun --nproc-per-node N)" if before > 1 else ", without torchrun")
            )


class BestCheckpoint(Checkpoint):
    """Keeps the epoch with the highest value of a logged metric in one file, which is never half written."""

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
        """Go on from it."""
        self.best = state_dict["best"]


def _save(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint; all processes take part, and the first writes."""
    if trainer.is_global_zero:
        write_atomically(path, lambda temporary: trainer.save_checkpoint(temporary))
    else:
        trainer.save_checkpoint(path)


def finished_epochs(path: Path) -> int:
    """How many epochs a checkpoint has behind it.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)["epoch"] + 1
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def load_weights(module: LightningModule, path: Path) -> None:
    """Put the weights of a checkpoint into a module, in place.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        module.load_state_dict(torch.load(path, weights_only=True, map_location="cpu")["state_dict"])
    except (OSError, RuntimeError, KeyError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"cannot read the best epoch's weights from {path}: {error}") from error
