"""Progress of a run on the console: lines, warnings and progress bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from anywidth.cli.messages import log
from anywidth.runs.reporter import Reporter

if TYPE_CHECKING:
    from anywidth.cli.progress_bar import ProgressBar

__all__ = ["ConsoleReporter"]


class ConsoleReporter(Reporter):
    """Prints lines and bars to a console, and warnings to the error stream."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def info(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, soft_wrap=True)

    def warning(self, text: str) -> None:
        """Print a warning to the error stream."""
        log("warning", text)

    def training(self, label: str) -> Sequence[ProgressBar]:
        """Progress bar over the steps of one training."""
        from anywidth.cli.progress_bar import ProgressBar  # imports Lightning, which most commands do not need

        return [ProgressBar(self.console, label)]

    def calibrating(self, widths: Sequence[float]) -> Iterable[float]:
        """The widths, with a progress bar if the console is a terminal."""
        quiet = not self.console.is_terminal
        return track(widths, "calibrating", console=self.console, transient=True, disable=quiet)
