"""Functions that are slow on the meta device and return the shape of their first argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import increment_version

__all__ = ["call_on_meta"]

_SHAPE_STAYS = frozenset(
    {
        F.batch_norm, F.group_norm, F.instance_norm, F.layer_norm, F.rms_norm, F.normalize, F.relu, F.relu6, F.gelu,
        F.hardswish, F.hardtanh, F.hardsigmoid, F.leaky_relu, F.elu, F.selu, F.celu, F.mish, F.softplus, F.logsigmoid,
        F.prelu,
    }
)  # fmt: skip

_INPLACE = {
    F.relu: 1, F.relu6: 1, F.hardswish: 1, F.hardtanh: 3, F.hardsigmoid: 1, F.leaky_relu: 2, F.elu: 2, F.selu: 1,
    F.celu: 2, F.mish: 1,
}  # fmt: skip
"""The position of the argument `inplace`."""


def call_on_meta(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> Any:
    """The result of a function, without calling it if it is known to have the shape of its first argument.

    PyTorch computes the shapes of norms and activations on the meta device through decompositions in Python, which take
    milliseconds each.
    """
    first = args[0] if args else None
    if isinstance(first, Tensor) and first.is_meta and function in _SHAPE_STAYS:
        if _is_in_place(function, args, kwargs or {}):
            increment_version(first)
            return first
        return torch.empty_like(first)
    return function(*args, **(kwargs or {}))


def _is_in_place(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    position = _INPLACE.get(function)
    if position is None:
        return False
    return bool(args[position] if len(args) > position else kwargs.get("inplace", False))
