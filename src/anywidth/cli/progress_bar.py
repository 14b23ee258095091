"""One progress bar for a whole training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from anywidth.runs.metrics_file import SCORE, epoch_means

__all__ = ["ProgressBar"]


class ProgressBar(Callback):
    """Progress bar over all steps, with the latest losses; in a file or pipe, one line per tenth of the epochs."""

    def __init__(self, console: Console, label: str) -> None:
        self.console = console
        self.label = label
        self._progress: Progress | None = None
        self._task: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the progress bar."""
        if not self.console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}  {task.fields[losses]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._progress.add_task(
            self.label,
            total=trainer.estimated_stepping_batches,
            completed=trainer.current_epoch * int(trainer.num_training_batches),
            epoch=trainer.current_epoch + 1,
            epochs=trainer.max_epochs,
            losses="",
        )
        self._progress.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the progress bar."""
        if self._progress is not None:
            losses = _text({name: value for name, value in outputs.items() if name.startswith("loss")})
            self._progress.update(self._task, advance=1, epoch=trainer.current_epoch + 1, losses=losses)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Without a terminal, print a line about every tenth of the epochs."""
        epoch, epochs = trainer.current_epoch + 1, trainer.max_epochs or 1
        if epoch % max(1, epochs // 10) and epoch != epochs:
            return
        found = epoch_means(trainer)  # a collective: every process must call it, with or without a terminal
        if self._progress is None:
            means = {n.removesuffix("_epoch"): value for n, value in found.items() if n.endswith("_epoch")}
            losses = _text({name: value for name, value in means.items() if name.startswith("loss")})
            score = found.get(SCORE)
            losses += "" if score is None else f"  held-out accuracy {100 * score:.2f} %"
            self.console.print(f"{self.label}: epoch {epoch}/{epochs}  {losses}", soft_wrap=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop updating the bar and leave it on the screen."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Release the terminal after an error."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _text(losses: Mapping[str, Any]) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {float(value):.3f}" for name, value in losses.items())
