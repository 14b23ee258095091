"""Parameters of subnets, which refuse to be asked for gradients that are in the supernet."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from anywidth.core.errors import AnywidthError

__all__ = ["SubnetParameter", "own_gradient", "subnet_parameter"]

_parents = WeakIdKeyDictionary()
"""The supernet's parameters, by parameter of a subnet."""

_READERS = ("torch.nn.utils", "torch.optim", "torch.amp")
"""Parts of torch that change gradients. All others, such as compilers, see a parameter without a gradient."""


def own_gradient(leaf: Tensor) -> Tensor | None:
    """The gradient that a parameter of a subnet keeps at the moment, within a step."""
    return Tensor.grad.__get__(leaf)  # type: ignore[attr-defined]


class SubnetParameter(nn.Parameter):
    """A parameter of a subnet. Its gradient is in the supernet, so `grad` raises instead of returning None.

    `clip_grad_norm_(subnet.parameters(), 1.0)` would silently do nothing otherwise. Copies are ordinary parameters.
    """

    @property
    def grad(self) -> Tensor | None:
        """None if the supernet's parameter has no gradient either.

        Raises:
            AnywidthError: it has.
        """
        own = own_gradient(self)
        parent: nn.Parameter | None = _parents.get(self) if own is None else None
        if parent is None or parent.grad is None or _is_inside_torch(sys._getframe(1).f_globals.get("__name__", "")):
            return own
        raise AnywidthError(
            f"a parameter of shape {tuple(self.shape)} of a subnet keeps no gradient: gradients are added to those of "
            "the supernet's parameters. Read and clip them there: clip_grad_norm_(net.parameters(), 1.0)"
        )

    @grad.setter
    def grad(self, gradient: Tensor | None) -> None:  # type: ignore[override]
        Tensor.grad.__set__(self, gradient)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        if id(self) not in memo:
            data = self.detach().clone(memory_format=torch.preserve_format)
            memo[id(self)] = nn.Parameter(data, requires_grad=self.requires_grad)
        return memo[id(self)]


def subnet_parameter(part: Tensor, parent: nn.Parameter) -> SubnetParameter:
    """A parameter of a subnet for a part of a parameter of the supernet."""
    leaf = SubnetParameter(part, requires_grad=parent.requires_grad)  # type: ignore[call-arg]
    _parents[leaf] = parent
    return leaf


def _is_inside_torch(module: str) -> bool:
    return module.startswith("torch.") and not module.startswith(_READERS)
