"""Result of a finished run."""

from __future__ import annotations

from dataclasses import dataclass

from anywidth.evaluation import Spectrum
from anywidth.runs.run_folder import RunFolder

__all__ = ["TrainedRun"]


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """Results of a run.

    Attributes:
        folder: The run folder; `open_run(folder.path)` loads the supernet.
        spectrum: Cost and accuracy by width; after a retraining, of the found and the uniform network.
        others: Cost and accuracy of networks trained alone, if any.
        files: Names of the result files in the folder.
    """

    folder: RunFolder
    spectrum: Spectrum
    others: Spectrum | None = None
    files: tuple[str, ...]
