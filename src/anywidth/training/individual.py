"""One plain network of one width, trained alone, for comparison with a supernet."""

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
    """A network like the supernet's at one width, with new weights, trained on labels with the supernet's recipe.

    The network is on `device` and shares no tensors with the supernet.

    Args:
        net: The supernet; only its structure is used.
        width: As in `Supernet.config`.
        loader: Batches of (inputs, targets), as for the supernet.
        epochs: Passes over the loader.
        seed: Random seed of the weights.
        device: Device to train on.
        checkpoint: The file for the state to resume from; if it exists, training resumes from it.
        precision: 32, bf16 or 16 bits.
        loss: `loss(output, targets)`, a scalar.
        callbacks: Lightning callbacks, such as a progress bar.
        recipe: Options as in `RecipeOptions`, such as `lr`, as for the supernet.

    Raises:
        KeyboardInterrupt, CheckpointError, TrainingError: as in `fit`.
    """
    dense = channels_last_(net.extract(width, calibrated=False).cpu())
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not those of GPUs, which would not be restored
        initialise(dense)
    module = PlainModule(dense, loss=loss, **recipe)
    fit(
        module, loader, epochs=epochs, device=device, checkpoint=checkpoint, precision=precision, callbacks=callbacks
    )  # fmt: skip
    return dense.to(device)
