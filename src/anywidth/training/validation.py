"""Score several widths on held-out data after every epoch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch.autograd.graph import increment_version
from torchmetrics import Metric

from anywidth.batchnorm import calibrate
from anywidth.supernet import Supernet
from anywidth.tasks import logits_of, metric_values
from anywidth.widths import Width

__all__ = ["WidthValidation"]


class WidthValidation(Callback):
    """Calibrates and scores some widths after every epoch, and logs `NAME@WIDTH` and their mean, `NAME`.

    Use it with Lightning's `EarlyStopping(monitor=NAME)`, `ModelCheckpoint` and loggers. It must come before them in
    the list of callbacks.

    Args:
        net: The supernet that is trained.
        calibration: Batches of training data, for batch-norm statistics.
        loader: Batches of held-out (inputs, targets).
        widths: Widths to score.
        metrics: Metrics of torchmetrics by name, such as `task.metrics()`.
        predict: Returns what the metrics compare with the targets, for an output of the network, such as
            `task.predict`; by default the logits.
        images: Training samples for the statistics of a width.
        every: Epochs between scores; the last epoch is always scored.
    """

    def __init__(
        self,
        net: Supernet,
        calibration: Iterable[Any],
        loader: Iterable[Any],
        widths: Sequence[Width],
        metrics: Mapping[str, Metric],
        *,
        predict: Callable[[Any], Any] = logits_of,
        images: int | None = 1024,
        every: int = 1,
    ) -> None:
        self.net = net
        self.calibration = calibration
        self.loader = loader
        self.widths = list(widths)
        self.metrics = dict(metrics)
        self.predict = predict
        self.images = images
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score all widths."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every and epoch != trainer.max_epochs:
            return
        with _averaged(trainer, pl_module):
            calibrate(self.net, self.calibration, self.widths, images=self.images)
            with torch.inference_mode():
                scores = [
                    metric_values(self.net.extract(width).eval(), self.loader, self.metrics, self.predict)
                    for width in self.widths
                ]
        for name in self.metrics:
            for width, found in zip(self.widths, scores, strict=True):
                pl_module.log(f"{name}@{self.net.config(width)}", found[name])
            pl_module.log(name, statistics.fmean(found[name] for found in scores))


@contextmanager
def _averaged(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Context manager in which the module has the average of its weights, if there is one."""
    averages = [callback for callback in trainer.callbacks if isinstance(callback, WeightAveraging)]  # type: ignore[attr-defined]
    # Callbacks bypass the version counters, which tell whether statistics and copies are up to date.
    written = list(module.parameters()) if averages else []
    for callback in averages:
        callback.on_validation_epoch_start(trainer, module)
    increment_version(written)
    try:
        yield
    finally:
        for callback in averages:
            callback.on_validation_epoch_end(trainer, module)
        increment_version(written)
