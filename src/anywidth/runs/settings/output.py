"""Settings of the output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anywidth.runs.options import option

__all__ = ["OutputSettings"]


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """Run folder and logs."""

    folder: Path | None = option(
        None, name="out", metavar="DIR", kept=False, help="run folder to write; by default runs/DATA-MODEL-TIME"
    )
    tensorboard: bool = option(False, help="also log every step for TensorBoard, in the run folder")
