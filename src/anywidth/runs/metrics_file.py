"""CSV file with one row per epoch."""

from __future__ import annotations

import csv
import io
import time
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from anywidth.core.files import write_atomically
from anywidth.core.processes import all_gather

__all__ = ["SCORE", "MetricsFile", "epoch_means"]

SCORE = "accuracy"
"""Metric name of the mean score on held-out images; `SCORE@WIDTH` is the score of one width."""


def epoch_means(trainer: Trainer) -> dict[str, float]:
    """Logged means of the epoch by name, over all processes. A collective: every process must call it."""
    own = {name: float(value) for name, value in trainer.callback_metrics.items()}
    everyones = all_gather(own)
    return {
        name: fmean(means[name] for means in everyones) for name in own if all(name in means for means in everyones)
    }


class MetricsFile(Callback):
    """Writes the means of each finished epoch; a resumed run appends to the epochs that it keeps.

    With several processes, only the first one writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._start = 0.0
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the rows of earlier epochs."""
        if trainer.is_global_zero and self.path.exists():
            with self.path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= trainer.current_epoch]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start timing the epoch."""
        self._start, self._steps = time.perf_counter(), trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Append the row of this epoch."""
        means = epoch_means(trainer)
        if not trainer.is_global_zero:
            return
        # If every step was skipped, the value is missing or left over from the previous epoch.
        losses = means if trainer.global_step > self._steps else {}
        row = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": f"{means['lr_epoch']:.6g}",
            "loss_widest": f"{losses.get('loss_widest_epoch', nan):.6f}",
            "loss_narrowest": f"{losses.get('loss_narrowest_epoch', nan):.6f}",
            "seconds": f"{time.perf_counter() - self._start:.2f}",
            **{name: f"{100 * means[name]:.4f}" for name in means if name.split("@")[0] == SCORE},
        }
        self._rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_atomically(self.path, lambda path: path.write_text(text.getvalue()))
