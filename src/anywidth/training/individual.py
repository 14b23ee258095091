"""One plain network of one width, trained alone: what a supernet is compared to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import nn

from anywidth.models import channels_last_, initialise
from anywidth.supernet import Supernet
from anywidth.tasks import Loss
from anywidth.training.fit import fit
from anywidth.training.lightning import PlainModule
from anywidth.training.recipe import RecipeOptions
from anywidth.widths import Width

__all__ = ["train_alone"]


def train_alone(
    net: Supernet,
    width: Width,
    loader: Any,
    *,
    epochs: int,
    seed: int,
    device: torch.device,
    checkpoint: Path,
    precision: str = "32",
    loss: Loss = F.cross_entropy,
    callbacks: Sequence[Callback] = (),
    **recipe: Unpack[RecipeOptions],
) -> nn.Module:
    """A network like the supernet's at one width, with new weights, trained on the labels by the supernet's recipe.

    It is on `device` and shares nothing with the supernet, of which only the structure is taken.

    Args:
        net: The supernet.
        width: As in `Supernet.config`.
        loader: Batches of (inputs, targets), as for the supernet.
        epochs: Passes over the loader.
        seed: Of the weights.
        device: Where to train.
        checkpoint: The file that keeps the state after every epoch; training goes on from it if it is there.
        precision: 32, bf16 or 16 bits.
        loss: `loss(output, targets)`, a scalar.
        callbacks: Lightning's, such as a progress bar.
        recipe: Those of `RecipeOptions`, such as `lr`, as for the supernet.

    Raises:
        KeyboardInterrupt, CheckpointError, TrainingError: as `fit`.
    """
    dense = channels_last_(net.extract(width, calibrated=False).cpu())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # and not those of GPUs, which would stay so
        initialise(dense)
    module = PlainModule(dense, loss=loss, **recipe)
    fit(
        module, loader, epochs=epochs, device=device, checkpoint=checkpoint, precision=precision, callbacks=callbacks
    )  # fmt: skip
    return dense.to(device)
