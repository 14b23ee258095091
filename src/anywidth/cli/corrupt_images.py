"""What is said about images that could not be read and were left out."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer

from anywidth.cli.messages import say
from anywidth.data import ItemLoader, TensorLoader
from anywidth.distributed import everyone

__all__ = ["CorruptImages", "tell_corrupt"]

_NAMED = 3


class CorruptImages(Callback):
    """Says after an epoch how many training images were left out so far, and which, if there are more than before.

    Args:
        loader: The loader of the training images.
    """

    def __init__(self, loader: TensorLoader | ItemLoader) -> None:
        self.loader = loader
        self._told = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it."""
        self._told = tell_corrupt(self.loader, "training", told=self._told)


def tell_corrupt(loader: TensorLoader | ItemLoader, part: str, *, told: int = 0) -> int:
    """Say how many images of a part could not be read, in all processes, and which; how many it were.

    Args:
        loader: Of that part.
        part: Its name.
        told: How many of them were told before.
    """
    if not isinstance(loader, ItemLoader):
        return 0
    problems = sorted(set().union(*everyone(loader.problems)))
    if len(problems) > told:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        first = "; ".join(problem.rpartition("; ")[0] or problem for problem in problems[:_NAMED])
        say("warning", f"{len(problems)} {part} images were left out: {first}{more}")
    return len(problems)
