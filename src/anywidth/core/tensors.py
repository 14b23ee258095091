"""Tensors inside nested values."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

__all__ = ["other_numbers", "tensors_in"]


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in a value: in lists, tuples, dicts and other containers that torch knows, in order.

    >>> [tensor.shape for tensor in tensors_in({"x": torch.zeros(2), "more": [torch.zeros(3), 1]})]
    [torch.Size([2]), torch.Size([3])]
    """
    if isinstance(value, Tensor):  # which modules mostly return; looking through a tree takes longer than small layers
        return [value]
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def other_numbers(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and dtype with normal random numbers; a copy if it does not hold real numbers."""
    return torch.randn_like(tensor) if tensor.is_floating_point() else tensor.clone()
