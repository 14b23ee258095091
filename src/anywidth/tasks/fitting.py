"""Checks that outputs and targets fit a loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from anywidth.core.errors import LossError

__all__ = [
    "describe",
    "is_integer",
    "require_classes",
    "require_floats",
    "require_same_shape",
    "require_tensor",
]


def describe(value: Any) -> str:
    """Dtype and shape of a tensor, or the type of another value, for messages.

    >>> describe(torch.zeros(2, 3)), describe([1])
    ('float32 of shape (2, 3)', 'list')
    """
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"


def is_integer(tensor: Tensor) -> bool:
    """Whether a tensor has an integer dtype other than bool."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def require_tensor(name: str, target: Any, wanted: str) -> None:
    """Raise a `LossError` unless the targets are a tensor."""
    if not isinstance(target, Tensor):
        raise LossError(f"{name} needs targets that are {wanted}, but the targets are {describe(target)}")


def require_classes(name: str, output: Tensor, dim: int) -> None:
    """Raise a `LossError` unless a dimension has at least two classes."""
    if not -output.ndim <= dim < output.ndim:
        raise LossError(
            f"{name} reads classes from dimension {dim}, which the output {tuple(output.shape)} does not have"
        )
    if output.shape[dim] == 1:
        raise LossError(
            f"{name} reads classes from dimension {dim} of the output {tuple(output.shape)}, but with a single class "
            "its gradient is always 0; use binary_cross_entropy_with_logits for one logit, mse_loss for regression, "
            "or a model with one output per class"
        )


def require_floats(name: str, output: Tensor) -> None:
    """Raise a `LossError` unless the output has a floating-point dtype."""
    if not output.is_floating_point():
        raise LossError(f"{name} needs a floating-point output, not {describe(output)}")


def require_same_shape(name: str, output: Any, teacher: Any) -> None:
    """Raise a `LossError` unless student and teacher return one tensor each, of the same shape."""
    for tensor in (output, teacher):
        if not isinstance(tensor, Tensor):
            raise LossError(
                f"logits= returns a {describe(tensor)}, but {name} distils a single tensor; give distillation= as a "
                "function of student and teacher, or as a tuple or dict with one function for each"
            )
    if output.shape != teacher.shape:
        raise LossError(
            f"the teacher's output {tuple(teacher.shape)} and the student's {tuple(output.shape)} differ in shape, so "
            f"{name} cannot compare them; use a teacher with the same output, or a custom distillation"
        )
