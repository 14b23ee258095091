"""Score of one width on a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from anywidth.core.batches import run_batches
from anywidth.core.modules import model_device
from anywidth.evaluation.means import mean_score
from anywidth.evaluation.measure import values_of
from anywidth.evaluation.quantity import quantity_of
from anywidth.evaluation.score import Score, top1
from anywidth.supernet import Supernet
from anywidth.tasks import MeasuredTask, metrics_of
from anywidth.widths import Width

__all__ = ["evaluate"]


@torch.inference_mode()
def evaluate(
    net: Supernet,
    loader: Iterable[Any],
    width: Width = 1.0,
    *,
    score: Score | None = None,
    task: MeasuredTask | None = None,
) -> float:
    """Score of one width on all samples of a loader: the mean of a score per sample, or the first metric of a task.

    Processes that train together combine their scores. Give each process its part of the samples, or all of them to
    every process.

    Args:
        net: The supernet, which is not changed.
        loader: Batches of (inputs, targets).
        width: As in `Supernet.config`; must be calibrated.
        score: `score(output, targets)`, one finite number per sample; by default top-1 accuracy in percent, for outputs
            of shape (batch, classes) and integer targets of shape (batch,).
        task: A task, whose first metric is the score; `anywidth.evaluation.measure` returns all of them.

    Raises:
        LossError: the score or metric does not fit the output and the targets, or is not finite.
        UncalibratedError: the width has no up-to-date batch-norm statistics.
        DataError: the loader is empty.

    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> 0 <= evaluate(net, [(torch.randn(8, 4), torch.zeros(8).long())], 0.5) <= 100
    True
    """
    quantity_of(score, task)  # raises if they contradict each other
    if task is not None:
        name, metric = next(iter(metrics_of(task).items()))
        return values_of(net, loader, width, task, {name: metric})[name]
    network = net.extract(width).eval()
    return mean_score(run_batches(lambda inputs: inputs.call(network), loader, model_device(network)), score or top1)
