"""Score of an ONNX file on a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anywidth.core.batches import run_batches
from anywidth.evaluation import Score, top1
from anywidth.evaluation.means import mean_score
from anywidth.export.ladder import WIDTH_INPUT
from anywidth.export.session import open_session, runner

__all__ = ["evaluate_onnx"]


def evaluate_onnx(path: str | Path, loader: Iterable[Any], *, width: float | None = None, score: Score = top1) -> float:
    """Mean score over all samples of a loader, computed by ONNX Runtime; the counterpart of `anywidth.evaluate`.

    Args:
        path: A file that `anywidth.export` or `export_ladder` wrote.
        loader: Batches of (inputs, targets).
        width: The width to run, for a ladder file.
        score: As in `anywidth.evaluate`; by default top-1 accuracy in percent.

    Raises:
        ExportError: the file is missing or damaged.
        LossError: the score does not fit the output and the targets.
        DataError: the loader is empty.

    >>> import tempfile
    >>> from torch import nn
    >>> from anywidth.export.export import export
    >>> from anywidth.supernet import Supernet
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = export(net, 0.5, Path(folder, "half.onnx"))
    ...     0 <= evaluate_onnx(written.path, [(torch.randn(8, 4), torch.zeros(8).long())]) <= 100
    True
    """
    extra = {} if width is None else {WIDTH_INPUT: np.array([width], dtype=np.float32)}
    run = runner(open_session(Path(path)), **extra)
    # One process may score a file that it alone has written.
    return mean_score(run_batches(lambda inputs: run(inputs)[0], loader, torch.device("cpu")), score, pooled=False)
