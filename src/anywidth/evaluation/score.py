"""Score functions: the default, and the check of custom ones."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anywidth.core.errors import LossError
from anywidth.core.tensors import tensors_in
from anywidth.tasks import logits_of, loss_name
from anywidth.tasks.fitting import describe, is_integer

__all__ = ["Score", "score_samples", "top1"]

Score = Callable[[Any, Any], Tensor]
"""`score(output, targets)`, one number per sample; higher is better where widths are ranked by it."""

_GIVE = "give score=, a function of output and targets that returns one number per sample"


def top1(output: Any, targets: Tensor) -> Tensor:
    """Score 100 for every sample whose largest logit is its class, otherwise 0; shape (batch,).

    Args:
        output: Logits of shape (batch, classes), or an output that `anywidth.training.logits_of` accepts.
        targets: Class indices of shape (batch,).

    Raises:
        LossError: shapes do not fit, a target is not a class, there is only one class, or a logit is NaN.

    >>> top1(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
    tensor([100.,   0.])
    """
    logits = logits_of(output)
    fits = isinstance(targets, Tensor) and is_integer(targets) and logits.ndim == 2 and targets.ndim == 1
    if not fits or len(logits) != len(targets) or logits.shape[1] < 2:
        raise LossError(
            "top-1 accuracy, the default score, needs an output (batch, classes) with at least two classes and "
            f"integer targets (batch,), but the output is {describe(logits)} and the targets are {describe(targets)}; "
            f"{_GIVE}, such as {_example(logits, targets)}"
        )
    classes = logits.shape[1]
    if targets.numel():
        ends = targets.long().aminmax()
        lowest, highest, has_nan = torch.stack([*ends, logits.isnan().any().long()]).tolist()  # synchronizes a GPU once
        if has_nan:
            raise LossError(
                "the output contains NaN; check the weights and inputs for NaN, or whether training diverged"
            )
        if lowest < 0 or highest >= classes:
            bad = lowest if lowest < 0 else highest
            raise LossError(
                f"a target is class {bad}, but the output has {classes} classes, numbered 0 to {classes - 1}; correct "
                f"the targets, or {_GIVE}"
            )
    return (logits.argmax(1) == targets).float() * 100


def score_samples(score: Score, output: Any, targets: Any, *, samples: int) -> tuple[float, int]:
    """Sum of the scores of a batch, and the number of scores.

    Args:
        score: `score(output, targets)`.
        output: The model's output.
        targets: The targets.
        samples: Number of samples in the inputs.

    Raises:
        LossError: the score does not return one finite number per sample.

    >>> score_samples(top1, torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]), samples=2)
    (100.0, 2)
    """
    scores = score(output, targets)
    name = f"score {loss_name(score)}"
    # If the batch is not the first dimension of the inputs, use that of the targets or of the output.
    leaves = tensors_in((targets, output))
    counts = {samples, *(leaf.shape[0] for leaf in leaves if leaf.ndim)}
    if not isinstance(scores, Tensor) or scores.ndim != 1 or len(scores) not in counts or scores.is_complex():
        raise LossError(
            f"{name} returned {describe(scores)} for {samples} samples; it must return one number per sample, shape "
            f"({samples},): average over all other dimensions, or use reduction='none' for a loss"
        )
    total = float(scores.double().sum())
    if not math.isfinite(total):
        bad = scores[~torch.isfinite(scores)]
        raise LossError(
            f"{name} is {float(bad[0]) if len(bad) else total} for {len(bad)} of {len(scores)} samples; the weights or "
            "the data contain NaN, training diverged, or the score divides by zero"
        )
    return total, len(scores)


def _example(logits: Tensor, targets: Any) -> str:
    """Example of a score that fits these outputs and targets."""
    if isinstance(targets, Tensor) and logits.ndim > 2 and is_integer(targets):
        if targets.shape == logits.shape[:1] + logits.shape[2:] and targets.shape != logits.shape[:-1]:
            return "lambda output, target: 100 * (output.argmax(1) == target).float().flatten(1).mean(1)"
        return "lambda output, target: 100 * (output.logits.argmax(-1) == target).float().flatten(1).mean(1)"
    if isinstance(targets, Tensor) and targets.is_floating_point():
        return "lambda output, target: -(output - target).square().flatten(1).mean(1)"
    return "lambda output, target: (output > 0).eq(target).float().flatten(1).mean(1)"
