"""Grouped matrix products of experts without the limits of the fast kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["AnyGroupedProduct"]


class AnyGroupedProduct(TorchDispatchMode):
    """Mode in which grouped matrix products accept any type and any number of channels.

    The kernel needs single or half precision and rows of a multiple of 16 bytes, but proofs use double precision and
    any number of channels.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._grouped_mm.default:
            return _grouped_product(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _grouped_product(
    x: Tensor, weight: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Tensor:
    """Rows `offs[e - 1]` to `offs[e]` of (rows, in) times matrix e of (experts, in, out); the rest are zeros."""
    if offs is None or (x.ndim, weight.ndim) != (2, 3):
        return torch.ops.aten._grouped_mm.default(x, weight, offs, bias, out_dtype)
    out = x.new_zeros(x.shape[0], weight.shape[2])
    start = 0
    for expert, end in enumerate(offs.tolist()):
        out[start:end] = x[start:end] @ weight[expert]
        start = end
    return out if bias is None else out + bias
