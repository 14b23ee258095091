"""From settings to what the trainer is given."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from lightning.pytorch.loggers import Logger
from torchmetrics.classification import MulticlassAccuracy

from anywidth.cli.metrics_file import SCORE
from anywidth.cli.options import SettingsError
from anywidth.cli.run_folder import RunFolder
from anywidth.cli.train_settings import TrainSettings
from anywidth.core.extras import from_extra
from anywidth.core.processes import share_of
from anywidth.data import Loaders
from anywidth.evaluation import even_widths
from anywidth.models.suggest import closest
from anywidth.supernet import Supernet
from anywidth.tasks import Loss
from anywidth.training.epoch_checkpoint import BestCheckpoint
from anywidth.training.recipe import RecipeOptions
from anywidth.training.schedule import SCHEDULES
from anywidth.training.validation import WidthValidation

__all__ = ["average_of", "logger_of", "loss_of", "recipe_of", "scores_of"]

_SCORED_WIDTHS, _SCORED_IMAGES = 4, 1024


def recipe_of(settings: TrainSettings, classes: int) -> RecipeOptions:
    """The options of an optimizer step, for supernets and separate networks alike.

    Raises:
        SettingsError: there is no such optimizer.
    """
    return {
        "lr": settings.lr,
        "weight_decay": settings.decay,
        "warmup_epochs": settings.warmup_epochs,
        "optimizer": _optimizer(settings),
        "schedule": SCHEDULES[settings.schedule],
        "accumulate": settings.accumulate,
        "clip": settings.clip,
        "skip": settings.skip,
        "transform": _mixing(settings, classes),
    }


def loss_of(settings: TrainSettings) -> Loss:
    """The loss on the labels."""
    return partial(F.cross_entropy, label_smoothing=settings.smoothing)


def average_of(settings: TrainSettings, device: torch.device) -> list[Callback]:
    """What keeps an average of the weights, if one is wanted, on the device of the training."""
    return [EMAWeightAveraging(device, decay=settings.averaging)] if settings.averaging else []


def scores_of(
    settings: TrainSettings, net: Supernet, loaders: Loaders, held_out: Any, folder: RunFolder, *, classes: int
) -> list[Callback]:
    """What scores some widths on the held-out images after every epoch, and decides by it."""
    if held_out is None:
        return []
    widths = even_widths(net, _SCORED_WIDTHS)
    metrics = {SCORE: MulticlassAccuracy(classes, average="micro")}
    callbacks: list[Callback] = [
        WidthValidation(net, loaders.calibration, held_out, widths, metrics, images=share_of(_SCORED_IMAGES))
    ]
    if settings.keep == "best":
        callbacks.append(BestCheckpoint(folder.checkpoint("best"), SCORE))
    if settings.early_stop is not None:
        callbacks.append(
            EarlyStopping(monitor=SCORE, mode="max", patience=settings.early_stop, check_on_train_epoch_end=True)
        )
    return callbacks


def logger_of(settings: TrainSettings, folder: Path) -> Logger | None:
    """TensorBoard's, if it is wanted.

    Raises:
        MissingExtraError: it is not installed.
    """
    if not settings.tensorboard:
        return None
    with from_extra("tensorboard", "--tensorboard needs TensorBoard"):
        import tensorboard as _  # noqa: F401
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="")


def _optimizer(settings: TrainSettings) -> Callable[[list[dict[str, Any]]], Any] | None:
    if settings.optimizer == "sgd":
        return None
    from timm.optim import create_optimizer_v2, list_optimizers  # pyright: ignore[reportPrivateImportUsage]

    known = [str(name) for name in list_optimizers()]
    if settings.optimizer not in known:
        raise SettingsError(f"timm has no optimizer {settings.optimizer!r}; {closest(settings.optimizer, known)}")
    return lambda groups: create_optimizer_v2(groups, opt=settings.optimizer, lr=settings.lr, weight_decay=0.0)


def _mixing(settings: TrainSettings, classes: int) -> Callable[..., Any] | None:
    from torchvision.transforms import v2

    parts: list[Any] = [v2.MixUp(alpha=settings.mixup, num_classes=classes)] if settings.mixup else []
    parts += [v2.CutMix(alpha=settings.cutmix, num_classes=classes)] if settings.cutmix else []
    if len(parts) < 2:
        return parts[0] if parts else None
    return v2.RandomChoice(parts)
