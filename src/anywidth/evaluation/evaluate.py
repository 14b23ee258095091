"""Score of one width on a dataset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from anywidth.core.batches import samples, split_batch
from anywidth.core.errors import DataError
from anywidth.core.modules import model_device
from anywidth.core.processes import all_gather
from anywidth.evaluation.score import Score, score_samples, top1
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["evaluate"]


@torch.inference_mode()
def evaluate(net: Supernet, loader: Iterable[Any], width: Width = 1.0, *, score: Score = top1) -> float:
    """Mean score of one width over all samples of a loader; every sample has the same weight.

    Processes that train together combine their scores. Give each process its part of the samples, or all of them to
    every process.

    Args:
        net: The supernet, which is not changed.
        loader: Batches of (inputs, targets).
        width: As in `Supernet.config`; must be calibrated.
        score: `score(output, targets)`, one finite number per sample; by default top-1 accuracy in percent, for outputs
            of shape (batch, classes) and integer targets of shape (batch,).

    Raises:
        LossError: the score does not fit the output and the targets, or is not one finite number per sample.
        UncalibratedError: the width has no up-to-date batch-norm statistics.
        DataError: the loader is empty.

    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> 0 <= evaluate(net, [(torch.randn(8, 4), torch.zeros(8).long())], 0.5) <= 100
    True
    """
    network = net.extract(width)
    network.eval()
    device = model_device(network)
    total, count = 0.0, 0
    for batch in loader:
        inputs, targets = split_batch(batch, device)
        part, number = score_samples(score, inputs.call(network), targets, samples=samples(inputs))
        total += part
        count += number
    shares = all_gather((total, count))
    if sum(seen for _, seen in shares) == 0:
        raise DataError("the evaluation loader is empty; give at least one batch")
    return sum(score for score, _ in shares) / sum(seen for _, seen in shares)
