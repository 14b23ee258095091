"""One training run with Lightning's trainer, without its messages, and interruptible."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.states import TrainerStatus

from anywidth.core.errors import CheckpointError, DataError, TrainingError, first_line
from anywidth.core.processes import connection_lost, rank_and_count, several_processes
from anywidth.training.epoch_checkpoint import EpochCheckpoint, load_weights, progress
from anywidth.training.recipe import Recipe
from anywidth.training.strategy import SandwichStrategy

__all__ = ["fit"]

_PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
_NOISE = (
    ".*GPU available but not used.*",
    ".*does not have many workers.*",
    # Loss scaling skips optimizer steps on purpose.
    ".*lr_scheduler.step.. before .optimizer.step.*",
    ".*isinstance.treespec, LeafSpec.*",
    # The loader skips the batches that were trained.
    ".*checkpoint that ended before the epoch ended and your dataloader is not resumable.*",
    # Logged means are pooled over processes once per epoch.
    ".*It is recommended to use .self.log.*sync_dist=True.*",
)


def fit(
    module: Recipe,
    loader: Any,
    *,
    epochs: int,
    device: torch.device,
    checkpoint: Path,
    precision: str = "32",
    callbacks: Sequence[Callback] = (),
    logger: Logger | None = None,
) -> None:
    """Train a module, from its checkpoint if there is one, with all processes that `torchrun` started.

    If the checkpoint belongs to a finished training, this only loads its weights into the module.

    Args:
        module: The module to train, such as `SandwichModule`.
        loader: Batches of (inputs, targets). `set_epoch` of its sampler is called, if it exists; if it has `skip`, the
            training also resumes within an epoch.
        epochs: Passes over the loader, including those of the checkpoint.
        device: Device to train on; one of several processes uses the device of its `LOCAL_RANK`.
        checkpoint: The file for the state to resume from; see `EpochCheckpoint`.
        precision: 32, bf16 or 16 bits.
        callbacks: Lightning callbacks, such as a progress bar.
        logger: A Lightning logger.

    Raises:
        KeyboardInterrupt: Ctrl-C; the checkpoint contains the last state that was stored.
        CheckpointError: the checkpoint cannot be read.
        DataError: a process that loads images died.
        TrainingError: a loss is not finite, or the device is out of memory.
    """
    done = progress(checkpoint) if checkpoint.exists() else None
    if done is not None and done.is_over(epochs):
        load_weights(module, checkpoint)
        return
    with _quiet(), _interruptible():
        trainer = Trainer(
            max_epochs=epochs,
            accelerator="gpu" if device.type == "cuda" else "cpu",
            **_share(),
            precision=_PRECISIONS[precision],  # type: ignore[arg-type]
            callbacks=[
                *callbacks,
                EpochCheckpoint(checkpoint, within_epochs=hasattr(loader, "skip")),
                *([_SigtermAsBefore()] if several_processes() else []),
            ],
            logger=logger or False,
            enable_checkpointing=True,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
        )
        resumed = None if done is None else str(checkpoint)
        if done is not None and done.batches:
            loader.skip(done.batches)
        try:
            trainer.fit(module, loader, ckpt_path=resumed, weights_only=True)
        except SystemExit as error:
            if isinstance(error.__context__, BrokenPipeError):  # rich exits when its output pipe is closed
                raise BrokenPipeError from None
            if trainer.state.status == TrainerStatus.INTERRUPTED:
                raise KeyboardInterrupt from None
            raise
        except torch.OutOfMemoryError as error:
            raise TrainingError("out of memory: train with smaller batches (--batch-size)") from error
        except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, RuntimeError, KeyError) as error:
            if "DataLoader worker" in str(error):  # raised at any point in the trainer when the process dies
                raise DataError(
                    f"a process that reads images died: {first_line(error)} The memory may be too small: take fewer "
                    "workers (--workers)"
                ) from error
            if isinstance(error, TrainingError) or resumed is None or trainer.global_step or connection_lost(error):
                raise
            raise CheckpointError(
                f"cannot continue from {checkpoint}: {error}; remove it to start again from the first epoch"
            ) from error


class _SigtermAsBefore(Callback):
    """Restores the SIGTERM handler: Lightning's handler runs a collective, in which a process may wait forever."""

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the handler after Lightning has replaced it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)


def _share() -> dict[str, Any]:
    """The trainer's options for one or several processes."""
    _, count = rank_and_count()
    if count == 1:
        return {"devices": 1}
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", count))
    return {
        "devices": per_machine, "num_nodes": count // per_machine, "strategy": SandwichStrategy(),
        "use_distributed_sampler": False,
    }  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager that hides Lightning's tips, device lines, and warnings about intended choices."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for message in _NOISE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Context manager that restores the Ctrl-C handler, which Lightning leaves disabled after Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)
