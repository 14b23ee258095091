"""Trainer arguments from settings."""

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

from anywidth.core.errors import SettingsError
from anywidth.core.extras import from_extra
from anywidth.core.processes import share_of
from anywidth.data import Loaders
from anywidth.evaluation import even_widths
from anywidth.models.suggest import closest
from anywidth.runs.metrics_file import SCORE
from anywidth.runs.run_folder import RunFolder
from anywidth.runs.settings import DataSettings, OptimizationSettings, TrainSettings
from anywidth.supernet import Supernet
from anywidth.tasks import Loss
from anywidth.training.epoch_checkpoint import BestCheckpoint
from anywidth.training.recipe import RecipeOptions
from anywidth.training.schedule import SCHEDULES
from anywidth.training.validation import WidthValidation

__all__ = ["average_of", "logger_of", "loss_of", "recipe_of", "scores_of"]

_SCORED_WIDTHS, _SCORED_IMAGES = 4, 1024


def recipe_of(settings: TrainSettings, classes: int) -> RecipeOptions:
    """Optimizer options for supernets and separate networks.

    Raises:
        SettingsError: the optimizer is unknown.
    """
    steps = settings.optimization
    return {
        "lr": steps.lr,
        "weight_decay": settings.weight_decay,
        "warmup_epochs": steps.warmup_epochs,
        "optimizer": _optimizer(steps),
        "schedule": SCHEDULES[steps.schedule],
        "accumulate": steps.accumulate,
        "clip": steps.clip,
        "skip": steps.skip,
        "transform": _mixing(settings.data, classes),
    }


def loss_of(settings: TrainSettings) -> Loss:
    """Loss on the labels."""
    return partial(F.cross_entropy, label_smoothing=settings.label_smoothing)


def average_of(settings: TrainSettings, device: torch.device) -> list[Callback]:
    """Callback that averages the weights on the training device; empty if averaging is off."""
    return [EMAWeightAveraging(device, decay=settings.average)] if settings.average else []


def scores_of(
    settings: TrainSettings, net: Supernet, loaders: Loaders, held_out: Any, folder: RunFolder, *, classes: int
) -> list[Callback]:
    """Callbacks that score some widths on held-out images after each epoch, keep the best epoch or stop early."""
    if held_out is None:
        return []
    widths = even_widths(net, _SCORED_WIDTHS)
    metrics = {SCORE: MulticlassAccuracy(classes, average="micro")}
    callbacks: list[Callback] = [
        WidthValidation(net, loaders.calibration, held_out, widths, metrics, images=share_of(_SCORED_IMAGES))
    ]
    if settings.optimization.keep == "best":
        callbacks.append(BestCheckpoint(folder.checkpoint("best"), SCORE))
    if settings.optimization.early_stop is not None:
        callbacks.append(
            EarlyStopping(
                monitor=SCORE, mode="max", patience=settings.optimization.early_stop, check_on_train_epoch_end=True
            )
        )
    return callbacks


def logger_of(settings: TrainSettings, folder: Path) -> Logger | None:
    """TensorBoard logger, or None if `--tensorboard` is not given.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """
    if not settings.output.tensorboard:
        return None
    with from_extra("tensorboard", "--tensorboard needs TensorBoard"):
        import tensorboard as _  # noqa: F401
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="")


def _optimizer(steps: OptimizationSettings) -> Callable[[list[dict[str, Any]]], Any] | None:
    if steps.optimizer == "sgd":
        return None
    from timm.optim import create_optimizer_v2, list_optimizers  # pyright: ignore[reportPrivateImportUsage]

    known = [str(name) for name in list_optimizers()]
    if steps.optimizer not in known:
        raise SettingsError(f"unknown optimizer {steps.optimizer!r} in timm; {closest(steps.optimizer, known)}")
    return lambda groups: create_optimizer_v2(groups, opt=steps.optimizer, lr=steps.lr, weight_decay=0.0)


def _mixing(data: DataSettings, classes: int) -> Callable[..., Any] | None:
    from torchvision.transforms import v2

    parts: list[Any] = [v2.MixUp(alpha=data.mixup, num_classes=classes)] if data.mixup else []
    parts += [v2.CutMix(alpha=data.cutmix, num_classes=classes)] if data.cutmix else []
    if len(parts) < 2:
        return parts[0] if parts else None
    return v2.RandomChoice(parts)
