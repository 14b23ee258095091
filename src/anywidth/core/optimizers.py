"""What optimizers of torch contain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.optim import Optimizer

__all__ = ["parameters_of"]


def parameters_of(optimizer: Optimizer) -> Iterator[Any]:
    """The parameters of all groups of an optimizer.

    >>> import torch
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> [parameter.shape for parameter in parameters_of(torch.optim.SGD([weight], lr=0.1))]
    [torch.Size([2])]
    """
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
