"""Logits and detached copies of model outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.core.errors import LossError
from anywidth.core.tensors import tensors_in

__all__ = ["detached", "logits_of"]


def logits_of(output: Any) -> Tensor:
    """Logits in a model's output: the tensor, its `logits`, the first of a tuple, or the only one of a dict.

    Raises:
        LossError: there are no logits, or a dict has several tensors and none is called `logits` or `out`.

    >>> import torch
    >>> logits_of((torch.zeros(2, 3), None)).shape
    torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits", output.get("out"))
        tensors = [key for key, value in output.items() if isinstance(value, Tensor)]
        if found is None and len(tensors) > 1:
            raise LossError(
                f"the model returns {', '.join(map(repr, tensors))}, none of them called 'logits'; give a `logits` "
                f"function that selects one, such as logits=lambda output: output[{tensors[-1]!r}]"
            )
        if found is None and tensors:
            found = output[tensors[0]]
    elif hasattr(output, "logits"):
        found = output.logits
    elif isinstance(output, (tuple, list)) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        raise LossError(
            f"a model output of type {type(output).__name__} contains no logits; give a `logits` function, such as "
            "logits=lambda output: output.prediction"
        )
    return found


def detached(output: Any) -> Any:
    """The same structure with all tensors detached, including attributes of objects.

    >>> import torch
    >>> detached({"a": torch.ones(1, requires_grad=True)})["a"].requires_grad
    False
    """
    return pytree.tree_map(_detach_leaf, output)


def _detach_leaf(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.detach()
    attributes = getattr(leaf, "__dict__", None)
    if (
        isinstance(leaf, (type, nn.Module))
        or not attributes
        or not any(_holds_tensors(value) for value in attributes.values())
    ):
        return leaf
    changed = copy.copy(leaf)
    changed.__dict__.update({name: detached(value) for name, value in attributes.items() if _holds_tensors(value)})
    return changed


def _holds_tensors(value: Any) -> bool:
    return bool(tensors_in(value))
