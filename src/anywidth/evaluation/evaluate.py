"""The score of one width on a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from anywidth.distributed import everyone
from anywidth.errors import DataError
from anywidth.supernet import Supernet
from anywidth.supernet.batches import model_device, split_batch
from anywidth.widths import Width

__all__ = ["Score", "evaluate", "top1"]

Score = Callable[[Any, Any], Tensor]


def top1(output: Any, targets: Tensor) -> Tensor:
    """100 for every sample whose largest logit is its class, else 0; shape (batch,).

    >>> top1(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    tensor([100.,   0.])
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if logits is None:
        logits = output[0] if isinstance(output, (tuple, list)) else next(iter(output.values()))
    return (logits.argmax(1) == targets).float() * 100


@torch.inference_mode()
def evaluate(net: Supernet, loader: Iterable[Any], width: Width = 1.0, *, score: Score = top1) -> float:
    """Mean score of one width over all samples of a loader; every sample counts the same.

    Processes that train together add up what each has seen; give each its part of the samples, or all to every one.

    Args:
        net: The supernet; nothing of it changes.
        loader: Batches of (inputs, targets).
        width: As in `Supernet.config`; it has to be calibrated.
        score: `score(output, targets)`, one number per sample; by default top-1 accuracy in percent.

    Raises:
        UncalibratedError: the width has no up-to-date batch-norm statistics.
        DataError: the loader is empty.

    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> 0 <= evaluate(net, [(torch.randn(8, 4), torch.zeros(8).long())], 0.5) <= 100
    True
    """
    network = net.extract(width).eval()
    device = model_device(network)
    total, count = 0.0, 0
    for batch in loader:
        inputs, targets = split_batch(batch, device)
        scores = score(inputs.call(network), targets)
        total += float(scores.double().sum())
        count += scores.numel()
    shares = everyone((total, count))
    if sum(seen for _, seen in shares) == 0:
        raise DataError("the evaluation loader gave no data")
    return sum(score for score, _ in shares) / sum(seen for _, seen in shares)
