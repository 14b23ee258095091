"""Binary cross-entropy, with one probability per output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.core.errors import LossError
from anywidth.tasks.fitting import describe, require_floats, require_same_shape, require_tensor
from anywidth.tasks.known import loss_name, register

__all__ = ["BinaryCrossEntropy"]


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy:
    """Binary cross-entropy. Its distillation uses the teacher's probabilities as targets.

    Attributes:
        name: Name of the loss in messages.
        loss: Loss with its arguments, such as `weight`, `pos_weight` and `reduction`.
        logits: Whether outputs are logits; otherwise they are probabilities.
    """

    name: str
    loss: Callable[..., Tensor]
    logits: bool

    def check(self, output: Tensor, target: Any, *, values: bool) -> None:
        """Raise unless the targets are probabilities with the shape of the output."""
        require_floats(self.name, output)
        require_tensor(self.name, target, "probabilities of the same shape")
        shape = tuple(output.shape)
        if target.shape != output.shape:
            how = ""
            if target.numel() == output.numel():
                how = f": use target.view{shape}"
            elif output.ndim == target.ndim + 1:
                how = f": use one_hot(target, {shape[-1]}).float(), or cross_entropy if every sample has one class"
            raise LossError(
                f"{self.name} needs a target in [0, 1] for every output, but the output is {shape} and the targets are "
                f"{describe(target)}{how}"
            )
        if not target.is_floating_point():
            raise LossError(f"{self.name} needs float targets, not {describe(target)}: use target.float()")
        if not values or not target.numel():
            return
        ends = [float(end) for end in target.aminmax()]
        bad = [end for end in ends if not 0 <= end <= 1]
        if bad:
            raise LossError(f"{self.name} got the target {bad[-1]:g}; targets must be probabilities in [0, 1]")

    def distill(self, output: Tensor, teacher: Tensor, target: Any = None) -> Tensor:
        """Binary cross-entropy against the teacher's probabilities."""
        require_same_shape(self.name, output, teacher)
        return self.loss(output, teacher.sigmoid() if self.logits else teacher)


@register(
    function=F.binary_cross_entropy_with_logits, module=nn.BCEWithLogitsLoss, arguments="weight pos_weight reduction"
)
def _with_logits(loss: Callable[..., Tensor], given: Mapping[str, Any]) -> BinaryCrossEntropy:
    return BinaryCrossEntropy(name=loss_name(loss), loss=loss, logits=True)


@register(function=F.binary_cross_entropy, module=nn.BCELoss, arguments="weight reduction")
def _of_probabilities(loss: Callable[..., Tensor], given: Mapping[str, Any]) -> BinaryCrossEntropy:
    return BinaryCrossEntropy(name=loss_name(loss), loss=loss, logits=False)
