"""In-place distillation: the widest network teaches the others within one step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from anywidth.errors import TrainingError

__all__ = ["logits_of", "soft_cross_entropy"]


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
