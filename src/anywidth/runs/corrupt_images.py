"""Warnings about images that could not be read and were left out."""

from __future__ import annotations

from collections import defaultdict

from lightning.pytorch import Callback, LightningModule, Trainer

from anywidth.core.processes import all_gather
from anywidth.data import ItemLoader, TensorLoader
from anywidth.runs.reporter import Reporter

__all__ = ["CorruptImages"]

_NAMED = 3


class CorruptImages:
    """Warns about images that a run left out: how many and which, once for all of its networks."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._told: dict[str, set[str]] = defaultdict(set)

    def warn(self, loader: TensorLoader | ItemLoader, part: str) -> None:
        """Warn about the unreadable images of a part such as "test", over all processes, if there are new ones."""
        if not isinstance(loader, ItemLoader):
            return
        told = self._told[part]
        before = len(told)
        told.update(*all_gather(loader.problems))
        if len(told) > before:
            more = f"; and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
            first = "; ".join(problem.rpartition("; ")[0] or problem for problem in sorted(told)[:_NAMED])
            count = f"1 {part} image was" if len(told) == 1 else f"{len(told)} {part} images were"
            self._reporter.warning(f"{count} left out: {first}{more}")

    def after_epochs(self, loader: TensorLoader | ItemLoader) -> Callback:
        """Callback that warns about the training images after every epoch."""
        return _AfterEpochs(self, loader)


class _AfterEpochs(Callback):
    def __init__(self, images: CorruptImages, loader: TensorLoader | ItemLoader) -> None:
        self._images, self._loader = images, loader

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._images.warn(self._loader, "training")
