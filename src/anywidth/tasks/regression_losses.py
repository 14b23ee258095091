"""Regression losses: squared, absolute, Huber and smooth L1 error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.core.errors import LossError
from anywidth.tasks.fitting import describe, require_floats, require_same_shape, require_tensor
from anywidth.tasks.known import loss_name, register

__all__ = ["NumberError"]


@dataclass(frozen=True, kw_only=True)
class NumberError:
    """Regression loss. Its distillation is the same error against the teacher's output.

    Attributes:
        name: Name of the loss in messages.
        loss: Loss with its arguments, such as `beta`, `delta`, `weight` and `reduction`.
        same_dtype: Whether outputs and targets must have the same float dtype.
    """

    name: str
    loss: Callable[..., Tensor]
    same_dtype: bool = False

    def check(self, output: Tensor, target: Any, *, values: bool) -> None:
        """Raise if targets would be broadcast or have an integer dtype."""
        require_floats(self.name, output)
        require_tensor(self.name, target, "numbers of the same shape")
        if target.shape != output.shape:
            how = ""
            if target.numel() == output.numel():
                how = f": use target.view{tuple(output.shape)}, or let the model return {tuple(target.shape)}"
            raise LossError(
                f"{self.name} needs one target per output value, but the output is {tuple(output.shape)} and the "
                f"targets are {tuple(target.shape)}, which torch would broadcast{how}"
            )
        if not target.is_floating_point():
            raise LossError(f"{self.name} needs float targets, not {describe(target)}: use target.float()")
        if self.same_dtype and target.dtype == torch.float64 != output.dtype:
            raise LossError(f"{self.name} needs targets with the dtype of the output, not float64: use target.float()")

    def distill(self, output: Tensor, teacher: Tensor, target: Any = None) -> Tensor:
        """Error against the teacher's output."""
        require_same_shape(self.name, output, teacher)
        return self.loss(output, teacher)


@register(function=F.mse_loss, module=nn.MSELoss, arguments="weight reduction")
@register(function=F.l1_loss, module=nn.L1Loss, arguments="weight reduction")
@register(function=F.smooth_l1_loss, module=nn.SmoothL1Loss, arguments="beta reduction")
def _numbers(loss: Callable[..., Tensor], given: Mapping[str, Any]) -> NumberError:
    return NumberError(name=loss_name(loss), loss=loss)


@register(function=F.huber_loss, module=nn.HuberLoss, arguments="delta weight reduction")
def _huber(loss: Callable[..., Tensor], given: Mapping[str, Any]) -> NumberError:
    return NumberError(name=loss_name(loss), loss=loss, same_dtype=True)
