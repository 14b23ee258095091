"""One row per epoch in a CSV file."""

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
"""The name of the mean score on held-out images among logged metrics; `SCORE@WIDTH` is that of one width."""


def epoch_means(trainer: Trainer) -> dict[str, float]:
    """The logged means of the epoch by name, over what all processes have seen; all of them have to ask."""
    own = {name: float(value) for name, value in trainer.callback_metrics.items()}
    everyones = all_gather(own)
    return {
        name: fmean(means[name] for means in everyones) for name in own if all(name in means for means in everyones)
    }


class MetricsFile(Callback):
    """Writes the means over each finished epoch; a resumed run goes on below the epochs that it keeps.

    Of several processes, the first writes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        self._start = 0.0
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the rows of the epochs before this one."""
        if trainer.is_global_zero and self.path.exists():
            with self.path.open(newline="") as file:
                self._rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= trainer.current_epoch]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start, self._steps = time.perf_counter(), trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write one row."""
        means = epoch_means(trainer)
        if not trainer.is_global_zero:
            return
        # If every step was left out, there is none, or that of the epoch before.
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
