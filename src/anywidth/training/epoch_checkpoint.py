"""The state of a training after every epoch, to go on from."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from anywidth.supernet.checkpoint import write_atomically

__all__ = ["EpochCheckpoint"]


class EpochCheckpoint(Checkpoint):
    """Keeps the last finished epoch in one file, which is never half written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace the file."""
        write_atomically(self.path, lambda path: trainer.save_checkpoint(path))
