"""One plain network of one width, trained alone: what a supernet is compared to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import nn

from anywidth.models import initialise
from anywidth.supernet import Supernet
from anywidth.training.fit import fit
from anywidth.training.lightning import PlainModule
from anywidth.training.sandwich import Loss
from anywidth.widths import Width

__all__ = ["train_alone"]


def train_alone(
    net: Supernet,
    width: Width,
    loader: Any,
    *,
    epochs: int,
    lr: float,
    weight_decay: float,
    warmup_epochs: float,
    seed: int,
    device: torch.device,
    checkpoint: Path,
    precision: str = "32",
    loss: Loss = F.cross_entropy,
    callbacks: Sequence[Callback] = (),
) -> nn.Module:
    """A network like the supernet's at one width, with new weights, trained on the labels by the supernet's recipe.

    It is on `device` and shares nothing with the supernet, of which only the structure is taken.

    Args:
        net: The supernet.
        width: As in `Supernet.config`.
        loader: Batches of (inputs, targets), as for the supernet.
        epochs: Passes over the loader.
        lr: Peak learning rate.
        weight_decay: As in `parameter_groups`.
        warmup_epochs: Epochs of linear warm-up.
        seed: Of the weights.
        device: Where to train.
        checkpoint: The file that keeps the state after every epoch; training goes on from it if it is there.
        precision: 32, bf16 or 16 bits.
        loss: `loss(output, targets)`, a scalar.
        callbacks: Lightning's, such as a progress bar.

    Raises:
        KeyboardInterrupt, CheckpointError, TrainingError: as `fit`.
    """
    dense = net.extract(width, calibrated=False).cpu()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        initialise(dense)
    module = PlainModule(dense, lr=lr, weight_decay=weight_decay, warmup_epochs=warmup_epochs, loss=loss)
    fit(
        module, loader, epochs=epochs, device=device, checkpoint=checkpoint, precision=precision, callbacks=callbacks
    )  # fmt: skip
    return dense.to(device)
