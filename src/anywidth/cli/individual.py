"""A separate network of one width, trained alike: what a supernet is compared to."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Callback

from anywidth.batchnorm import calibrate
from anywidth.cli.build import build_loaders
from anywidth.cli.train_settings import TrainSettings
from anywidth.cost import macs, params
from anywidth.data import DataBundle
from anywidth.evaluation import Row, evaluate
from anywidth.supernet import Supernet
from anywidth.training.individual import train_alone

__all__ = ["train_individual"]


def train_individual(
    net: Supernet,
    width: float,
    settings: TrainSettings,
    bundle: DataBundle,
    *,
    device: torch.device,
    checkpoint: Path,
    progress: Callback,
) -> Row:
    """The cost and accuracy of a network like the supernet's at one width, trained alone on the labels.

    Epochs, batches, optimizer and schedule are those of the supernet, and so are its batch-norm statistics: those
    of the whole training set.
    """
    loaders = build_loaders(settings, bundle)
    dense = train_alone(
        net, width, loaders.train, epochs=settings.epochs, lr=settings.lr, weight_decay=settings.decay,
        warmup_epochs=settings.warmup_epochs, seed=settings.seed, device=device, checkpoint=checkpoint,
        precision=settings.precision, callbacks=[progress],
    )  # fmt: skip
    # As a supernet of its own, it is calibrated and scored by the same functions.
    alone = Supernet(dense, net.inputs.args[0].to(device), min_width=1.0)
    calibrate(alone, loaders.calibration, [1.0], images=settings.calibration_images)
    return Row(width=width, macs=macs(net, width), params=params(net, width), accuracy=evaluate(alone, loaders.test))
