"""Accuracy of an early-exit classifier against its mean cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from anywidth.core.batches import split_batch
from anywidth.core.errors import DataError
from anywidth.core.modules import model_device
from anywidth.core.processes import all_gather
from anywidth.cost import params, progressive_macs
from anywidth.evaluation.row import Row
from anywidth.evaluation.score import top1
from anywidth.evaluation.spectrum import Spectrum
from anywidth.supernet import Supernet
from anywidth.supernet.early_exit import check_confidence, class_confidence
from anywidth.tasks import logits_of

__all__ = ["exit_curve"]


@torch.no_grad()
def exit_curve(
    net: Supernet,
    loader: Iterable[Any],
    confidences: Sequence[float] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
    *,
    name: str = "early exit",
) -> Spectrum:
    """Top-1 accuracy and mean MACs of early exits at many confidences, in the given order.

    Every sample is answered at the narrowest width whose softmax probability reaches the confidence, as by
    `net.progressive().exit_when(confidence=...)`. The loader is iterated once. Processes that train together combine
    their results, as in `evaluate`.

    Args:
        net: A nested classifier, in evaluation mode.
        loader: Batches of (inputs, targets).
        confidences: Softmax probabilities in [0, 1].
        name: Name of the curve in files and legends.

    Returns:
        One row per confidence: its name, the mean MACs per sample (`progressive_macs`), the parameters of the full
        network, and the accuracy in percent.

    Raises:
        DataError: the loader is empty.
        LossError: the output is not logits of shape (batch, classes), or does not fit the targets.
        SettingsError: a confidence is not in [0, 1].
        WidthError: the network is not nested.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    >>> net = Supernet(model, torch.randn(1, 4), nested=(0.5, 1.0))
    >>> curve = exit_curve(net, [(torch.randn(8, 4), torch.zeros(8).long())], [0.0, 1.0])
    >>> [(row.width, row.macs) for row in curve]
    [('confidence 0', 112), ('confidence 1', 304)]
    """
    for confidence in confidences:
        check_confidence(confidence)
    runner, device = net.progressive(), model_device(net.model)
    costs = torch.tensor(progressive_macs(net), dtype=torch.float64)
    correct, spent = (
        torch.zeros(len(confidences), dtype=torch.float64),
        torch.zeros(len(confidences), dtype=torch.float64),
    )
    count = 0
    for batch in loader:
        inputs, targets = split_batch(batch, device)
        scores, sure = [], []
        for shell in range(len(net.nested)):
            logits = logits_of(runner.refine() if shell else runner.start(inputs))
            scores.append(top1(logits, targets).cpu())
            sure.append(class_confidence(logits).cpu())
        count += len(scores[0])
        for number, confidence in enumerate(confidences):
            shells = first_sure(torch.stack(sure), confidence)
            correct[number] += torch.stack(scores).gather(0, shells[None]).sum()
            spent[number] += costs[shells].sum()
    parts = all_gather((correct.tolist(), spent.tolist(), count))
    total = sum(seen for *_, seen in parts)
    if not total:
        raise DataError("the evaluation loader is empty; give at least one batch")
    rows = [
        Row(
            width=f"confidence {confidence:g}",
            macs=round(sum(macs[number] for _, macs, _ in parts) / total),
            params=params(net),
            accuracy=sum(score[number] for score, *_ in parts) / total,
        )
        for number, confidence in enumerate(confidences)
    ]
    return Spectrum(rows, name)


def first_sure(sure: torch.Tensor, confidence: float) -> torch.Tensor:
    """The first width at which each sample is confident, the last if none is.

    Args:
        sure: Confidence by width and sample, shape (widths, batch).
        confidence: The confidence to reach.

    >>> first_sure(torch.tensor([[0.9, 0.2, 0.4], [0.9, 0.8, 0.4], [0.1, 0.1, 0.1]]), 0.8)
    tensor([0, 1, 2])
    """
    reached = sure >= confidence
    reached[-1] = True
    return reached.int().argmax(0)
