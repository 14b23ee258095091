"""In-place distillation: the widest network teaches the others within one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anywidth.errors import TrainingError

__all__ = ["alpha_divergence", "logits_of", "soft_cross_entropy"]


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean cross-entropy of the student against the teacher's soft labels, a scalar.

    Args:
        student: Logits of shape (batch, classes, ...).
        teacher: Logits of the same shape; no gradient flows into them.
        temperature: Divides both; 1 in the paper.

    Source: US-Nets (arXiv 1903.05134), section 3.3.

    >>> import torch
    >>> logits = torch.tensor([[0.0, 0.0]])
    >>> round(float(soft_cross_entropy(logits, logits)), 4)
    0.6931
    """
    soft = F.softmax(teacher.detach() / temperature, dim=1)
    return F.cross_entropy(student / temperature, soft)


def alpha_divergence(
    student: Tensor, teacher: Tensor, *, alphas: tuple[float, ...] = (-1.0, 1.0), clip: float = 5.0
) -> Tensor:
    """The larger of several alpha-divergences of every sample, averaged, a scalar; in place of `soft_cross_entropy`.

    Alpha 1 is the KL divergence, which punishes a student that misses what its teacher finds likely; alpha -1 punishes
    one that finds likely what its teacher does not. Gradients take the clipped ratio of teacher to student as constant.

    Args:
        student: Logits of shape (batch, classes, ...).
        teacher: Logits of the same shape; no gradient flows into them.
        alphas: Orders of the divergence, none 0.
        clip: The largest ratio of probabilities, and 1 over it the smallest.

    Source: AlphaNet (arXiv 2102.07954).

    >>> import torch
    >>> logits = torch.tensor([[0.0, 1.0]])
    >>> float(alpha_divergence(logits, logits)), float(alpha_divergence(-logits, logits)) > 0.4
    (0.0, True)
    """
    q, p = F.softmax(student, dim=1), F.softmax(teacher.detach(), dim=1)
    ratio = (p / q.detach().clamp_min(1e-12)).clamp(1 / clip, clip)
    values, surrogates = [], []
    for alpha in alphas:
        power = ratio**alpha
        if alpha == 1.0:
            value = (q.detach() * ratio * ratio.log()).sum(1)
        else:
            value = (q.detach() * (power - 1)).sum(1) / (alpha * (alpha - 1))
        values.append(value)
        # D = sum q f(p / q) has the gradient sum q' (f(t) - t f'(t)), which is -t^alpha / alpha but for a constant.
        surrogates.append(-(q * power).sum(1) / alpha)
    stacked, chosen = torch.stack(surrogates), torch.stack(values).max(0)
    surrogate = stacked.gather(0, chosen.indices[None])[0]
    return (chosen.values + surrogate - surrogate.detach()).mean()


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returns: the tensor, its `logits`, or its first tensor.

    >>> import torch
    >>> logits_of((torch.zeros(2, 3), None)).shape
    torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = output.get("logits", output.get("out", next(iter(output.values()), None)))
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not isinstance(output, Tensor):
        raise TrainingError(
            f"no logits found in a model output of type {type(output).__name__}; give sandwich_step a `logits` function"
        )
    return output
