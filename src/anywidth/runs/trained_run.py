"""What a finished run returns."""

from __future__ import annotations

from dataclasses import dataclass

from anywidth.evaluation import Spectrum
from anywidth.runs.run_folder import RunFolder

__all__ = ["TrainedRun"]


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """The results of a run.

    Attributes:
        folder: Holds the results; `open_run(folder.path)` loads the supernet.
        spectrum: Cost and accuracy by width; of the found and the uniform network after a retraining.
        others: The same of networks that were trained alone, if there are any.
        files: The names of the results in the folder.
    """

    folder: RunFolder
    spectrum: Spectrum
    others: Spectrum | None = None
    files: tuple[str, ...]
