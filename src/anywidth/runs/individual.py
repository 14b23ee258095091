"""A separate network of one width, trained for comparison with a supernet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import Callback

from anywidth.batchnorm import calibrate
from anywidth.core.files import write_atomically
from anywidth.core.processes import broadcast, share_of
from anywidth.cost import macs, params
from anywidth.data import DataBundle
from anywidth.evaluation import Row, evaluate
from anywidth.export.torch_file import save_dense
from anywidth.runs.corrupt_images import CorruptImages
from anywidth.runs.data import build_loaders
from anywidth.runs.recipe import average_of, loss_of, recipe_of
from anywidth.runs.settings import TrainSettings
from anywidth.supernet import Supernet
from anywidth.training.individual import train_alone
from anywidth.widths import Width

__all__ = ["train_individual"]


def train_individual(
    net: Supernet,
    width: Width,
    settings: TrainSettings,
    bundle: DataBundle,
    *,
    device: torch.device,
    checkpoint: Path,
    corrupt: CorruptImages,
    progress: Sequence[Callback] = (),
    name: str | None = None,
    keep: Path | None = None,
) -> Row:
    """Cost and accuracy of a separate network at one width, trained alone on the labels.

    Epochs, batches, optimizer and schedule match the supernet's, and batch-norm statistics come from the whole
    training set. The row is named `name`, by default the width; the weights are written to `keep`.
    """
    loaders = build_loaders(settings, bundle)
    dense = train_alone(
        net, width, loaders.train, epochs=settings.optimization.epochs, seed=settings.seed, device=device,
        checkpoint=checkpoint, precision=settings.optimization.precision, loss=loss_of(settings),
        callbacks=[*average_of(settings, device), *progress, corrupt.after_epochs(loaders.train)],
        **recipe_of(settings, len(bundle.classes)),
    )  # fmt: skip
    # Wrapped as a supernet, it is calibrated and evaluated by the same functions.
    alone = Supernet(dense, net.inputs.args[0].to(device), min_width=1.0)
    calibrate(alone, loaders.calibration, [1.0], images=share_of(settings.widths.calibration_images))
    if keep is not None:
        file = keep
        broadcast(lambda: write_atomically(file, lambda path: save_dense(dense, net.model, path)))
    label = name or (width if isinstance(width, float) else str(net.config(width)))
    row = Row(width=label, macs=macs(net, width), params=params(net, width), score=evaluate(alone, loaders.test))
    corrupt.warn(loaders.test, "test")
    return row
