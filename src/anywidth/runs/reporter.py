"""Receiver for the progress messages of a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning.pytorch import Callback

__all__ = ["Reporter"]


class Reporter:
    """Receives the messages of a run. Passes warnings to `warnings` and drops the rest; subclass it to show more."""

    def info(self, text: str) -> None:
        """Receive a line about the run, such as the sizes of its data set."""

    def warning(self, text: str) -> None:
        """Receive a warning."""
        warnings.warn(text, stacklevel=3)

    def training(self, label: str) -> Sequence[Callback]:
        """Lightning callbacks that show the progress of one training."""
        return ()

    def calibrating(self, widths: Sequence[float]) -> Iterable[float]:
        """Iterator over the widths that shows their calibration."""
        return widths
