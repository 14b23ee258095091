"""One row per epoch in a CSV file."""

from __future__ import annotations

import csv
import io
import time
from math import nan
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from anywidth.supernet.checkpoint import write_atomically

__all__ = ["SCORE", "MetricsFile"]

SCORE = "accuracy"
"""The name of the mean score on held-out images among logged metrics; `SCORE@WIDTH` is that of one width."""


class MetricsFile(Callback):
    """Writes the means over each finished epoch; a resumed run goes on below the epochs that it keeps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the rows of the epochs before this one."""
        if self.path.exists():
            with self.path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= trainer.current_epoch]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write one row."""
        means = trainer.callback_metrics
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": f"{float(means['lr_epoch']):.6g}",
            # Missing if every step of the epoch was left out.
            "loss_widest": f"{float(means.get('loss_widest_epoch', nan)):.6f}",
            "loss_narrowest": f"{float(means.get('loss_narrowest_epoch', nan)):.6f}",
            "seconds": f"{time.perf_counter() - self._start:.2f}",
            **{name: f"{100 * float(means[name]):.4f}" for name in means if name.split("@")[0] == SCORE},
        }
        self._rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self.path, lambda path: path.write_text(text.getvalue()))
