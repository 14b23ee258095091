"""Progress of a search."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from anywidth.cost import NamedCost
from anywidth.report import count
from anywidth.search import Progress
from anywidth.tasks import Quantity

__all__ = ["SearchProgress"]


class SearchProgress:
    """Progress bar for a search; in a file or pipe, one line per tenth of it."""

    def __init__(self, console: Console, cost: NamedCost, quantity: Quantity) -> None:
        self.console, self.cost, self.quantity = console, cost, quantity
        self._bar = Bar(
            TextColumn("searching"), BarColumn(bar_width=30), TextColumn("{task.description}"), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=1.0)
        self._told = -1

    def __enter__(self) -> SearchProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Advance the progress bar."""
        counted = f"{progress.candidate}/{progress.candidates}" if progress.candidates else ""
        if progress.steps:
            last = progress.steps[-1]
            cost = f"{count(last.network.cost)} {self.cost.unit}".rstrip()
            text = f"step {last.number}, {cost}, {self.quantity.text(last.network.score)}"
            detail = f", {counted}" if counted else ""
        else:
            text, detail = f"{counted} networks", ""
        self._bar.update(self._task, completed=progress.share, description=text + detail)
        tenth = int(10 * progress.share)
        if not self.console.is_terminal and tenth > self._told:
            self._told = tenth
            self.console.print(f"{10 * tenth} % done: {text}", soft_wrap=True)
