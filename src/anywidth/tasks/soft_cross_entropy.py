"""Cross-entropy against a teacher's soft labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from anywidth.tasks.fitting import require_classes, require_same_shape

__all__ = ["soft_cross_entropy"]


def soft_cross_entropy(student: Tensor, teacher: Tensor, temperature: float = 1.0, *, dim: int = 1) -> Tensor:
    """Mean cross-entropy of the student against the teacher's soft labels, a scalar.

    Args:
        student: Logits of shape (batch, classes, ...), or with the classes in dimension `dim`.
        teacher: Logits of the same shape; gradients do not flow into them.
        temperature: Divides the logits of both; 1 in the paper.
        dim: Class dimension; -1 for language models, whose logits are (batch, tokens, vocabulary).

    Raises:
        LossError: the shapes differ, or there is only one class, whose probability is always 1.

    Source: US-Nets (arXiv 1903.05134), section 3.3.

    >>> import torch
    >>> logits = torch.tensor([[0.0, 0.0]])
    >>> round(float(soft_cross_entropy(logits, logits)), 4)
    0.6931
    """
    require_same_shape("soft_cross_entropy", student, teacher)
    require_classes("soft_cross_entropy", student, dim)
    soft = F.softmax(teacher.detach() / temperature, dim=dim)
    if dim != 1 and student.ndim > 1:  # torch takes the classes from dimension 1
        student, soft = student.movedim(dim, 1), soft.movedim(dim, 1)
    return F.cross_entropy(student / temperature, soft)
