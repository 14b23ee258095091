"""Accuracy of an early-exit classifier against its mean cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from anywidth.core.batches import run_batches
from anywidth.core.inputs import Inputs
from anywidth.core.modules import model_device
from anywidth.cost import params, progressive_macs
from anywidth.evaluation.means import means
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
    runner = net.progressive()
    costs = torch.tensor(progressive_macs(net), dtype=torch.float64)

    def run(inputs: Inputs) -> list[torch.Tensor]:
        return [logits_of(runner.refine() if shell else runner.start(inputs)) for shell in range(len(net.nested))]

    def measure(_: Inputs, targets: Any, outputs: list[torch.Tensor]) -> tuple[list[float], int]:
        scores = torch.stack([top1(logits, targets).cpu() for logits in outputs])
        sure = torch.stack([class_confidence(logits).cpu() for logits in outputs])
        chosen = [first_sure(sure, confidence) for confidence in confidences]
        correct = [float(scores.gather(0, shells[None]).sum()) for shells in chosen]
        spent = [float(costs[shells].sum()) for shells in chosen]
        return [*correct, *spent], scores.shape[1]

    found = means(run_batches(run, loader, model_device(net.model)), measure)
    rows = [
        Row(width=f"confidence {confidence:g}", macs=round(spent), params=params(net), accuracy=accuracy)
        for confidence, accuracy, spent in zip(
            confidences, found[: len(confidences)], found[len(confidences) :], strict=True
        )
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
