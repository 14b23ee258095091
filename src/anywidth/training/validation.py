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
from anywidth.core.batches import run_batches
from anywidth.core.modules import model_device
from anywidth.supernet import Supernet
from anywidth.tasks import logits_of
from anywidth.widths import Width

__all__ = ["WidthValidation", "score_width"]


class WidthValidation(Callback):
    """Calibrates and scores some widths after every epoch, and logs `NAME@WIDTH` and their mean, `NAME`.

    Use it with Lightning's `EarlyStopping(monitor=NAME)`, `ModelCheckpoint` and loggers. It must come before them in
    the list of callbacks.

    Args:
        net: The supernet that is trained.
        calibration: Batches of training data, for batch-norm statistics.
        loader: Batches of held-out (inputs, targets).
        widths: Widths to score.
        metrics: Metrics of torchmetrics by name, which map logits and targets to a number.
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
        images: int | None = 1024,
        every: int = 1,
    ) -> None:
        self.net = net
        self.calibration = calibration
        self.loader = loader
        self.widths = list(widths)
        self.metrics = dict(metrics)
        self.images = images
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score all widths."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every and epoch != trainer.max_epochs:
            return
        with _averaged(trainer, pl_module):
            calibrate(self.net, self.calibration, self.widths, images=self.images)
            scores = [score_width(self.net, self.loader, width, self.metrics) for width in self.widths]
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


@torch.inference_mode()
def score_width(
    net: Supernet,
    loader: Iterable[Any],
    width: Width,
    metrics: Mapping[str, Metric],
    *,
    logits: Callable[[Any], torch.Tensor] = logits_of,
) -> dict[str, float]:
    """Values of torchmetrics metrics at one width, by name, combined over processes that train together.

    Args:
        net: The supernet.
        loader: Batches of (inputs, targets).
        width: As in `Supernet.config`; it must be calibrated.
        metrics: Metrics that map logits and targets to a number; their state is reset.
        logits: Finds the logits in the model's output.

    Raises:
        UncalibratedError: the width has no up-to-date batch-norm statistics.

    >>> from torch import nn
    >>> from torchmetrics.classification import MulticlassF1Score
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> batches = [(torch.randn(8, 4), torch.zeros(8).long())]
    >>> list(score_width(net, batches, 0.5, {"f1": MulticlassF1Score(2)}))
    ['f1']
    """
    network = net.extract(width).eval()
    device = model_device(network)
    for metric in metrics.values():
        metric.to(device).reset()
    for _, targets, output in run_batches(lambda inputs: logits(inputs.call(network)), loader, device):
        for metric in metrics.values():
            metric.update(output, targets)
    return {name: float(metric.compute()) for name, metric in metrics.items()}
