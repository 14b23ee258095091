"""Cross-entropy, distilled to soft targets over the class dimension."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.core.errors import LossError
from anywidth.tasks.fitting import (
    describe,
    is_integer,
    require_classes,
    require_floats,
    require_same_shape,
    require_tensor,
)
from anywidth.tasks.known import loss_name, register

__all__ = ["CrossEntropy"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross-entropy of logits or log-probabilities with class indices or class probabilities.

    The distillation is the same loss with the teacher's probabilities as targets. The class dimension, `weight` and
    `reduction` stay the same, and positions whose target is `ignore_index` are left out. Label smoothing is not applied
    to the teacher's probabilities: it makes overconfident labels soft, and these are soft already.

    Attributes:
        name: Name of the loss in messages.
        log_probabilities: Whether outputs are log-probabilities, as for `nll_loss`.
        classes_last: Whether classes are in the last dimension instead of dimension 1.
        kinds: Accepted targets: class indices, class probabilities or both.
        weight: Weight of each class, shape (classes,).
        ignore_index: Target value that is ignored; None if there is none.
        reduction: `mean` or `sum`.
    """

    name: str
    log_probabilities: bool = False
    classes_last: bool = False
    kinds: tuple[str, ...] = ("indices", "probabilities")
    weight: Tensor | None = None
    ignore_index: int | None = -100
    reduction: str = "mean"

    def check(self, output: Tensor, target: Any, *, values: bool) -> None:
        """Raise unless the output is (batch, classes, ...) and the targets fit it."""
        require_floats(self.name, output)
        require_tensor(self.name, target, "class indices of shape (batch,)")
        if output.ndim == 0:
            raise LossError(f"{self.name} needs an output of shape (batch, classes), not a single number")
        dim = output.ndim - 1 if self.classes_last or output.ndim == 1 else 1
        classes = output.shape[dim]
        require_classes(self.name, output, dim)
        positions = output.shape[:dim] + output.shape[dim + 1 :]
        if is_integer(target) and "indices" in self.kinds and target.shape != output.shape:
            if target.shape != positions:
                raise LossError(self._misfit(output, target, dim))
            # torch takes uint8 for one position per sample only.
            if target.dtype != torch.int64 and not (target.dtype == torch.uint8 and target.ndim == 1):
                raise LossError(f"{self.name} needs int64 class indices, not {describe(target)}: use target.long()")
            if values and target.numel():
                self._check_range(target, classes)
        elif target.is_floating_point() and "probabilities" in self.kinds and target.shape == output.shape:
            if values and target.numel():
                self._check_probabilities(target)
        elif target.shape == output.shape and "probabilities" in self.kinds:
            raise LossError(
                f"{self.name} reads targets of the output's shape {tuple(output.shape)} as class probabilities, which "
                f"must be floats, not {describe(target)}: use target.float(), or class indices by target.argmax({dim})"
            )
        else:
            raise LossError(self._misfit(output, target, dim))
        if self.log_probabilities and values and output.numel():
            self._check_log_probabilities(output.detach())

    def distill(self, output: Tensor, teacher: Tensor, target: Any = None) -> Tensor:
        """Cross-entropy against the teacher's probabilities."""
        require_same_shape(self.name, output, teacher)
        if self.classes_last and output.ndim > 2:
            output, teacher = output.movedim(-1, 1), teacher.movedim(-1, 1)
        dim = 0 if output.ndim == 1 else 1
        require_classes(self.name, output, dim)
        soft = teacher.exp() if self.log_probabilities else F.softmax(teacher, dim=dim)
        kept = None
        positions = output.shape[:dim] + output.shape[dim + 1 :]
        has_indices = isinstance(target, Tensor) and is_integer(target) and target.shape == positions
        if self.ignore_index is not None and has_indices:
            kept = target != self.ignore_index
            if kept.device.type == "cpu" and bool(kept.all()):  # on a GPU, this check would force a synchronization
                kept = None
            else:  # multiply instead of selecting, whose size would need a synchronization
                soft = soft * kept.unsqueeze(dim)
        if self.log_probabilities:
            value = self._on_log_probabilities(output, soft, dim)
        else:
            value = F.cross_entropy(output, soft, weight=self.weight, reduction=self.reduction)
        if kept is None or self.reduction == "sum":
            return value
        count = kept.sum().to(torch.promote_types(value.dtype, torch.float32))
        return value * (kept.numel() / count).to(value.dtype)  # the factor is exactly 1 if all are kept

    def _on_log_probabilities(self, output: Tensor, soft: Tensor, dim: int) -> Tensor:
        weight = 1.0 if self.weight is None else self.weight.view(-1, *[1] * (output.ndim - dim - 1))
        total = -(output * soft * weight).sum()
        return total / (output.numel() / output.shape[dim]) if self.reduction == "mean" else total

    def _check_range(self, target: Tensor, classes: int) -> None:
        """Raise unless class indices are in range or ignored."""
        lowest, highest = (int(end) for end in target.aminmax())
        if lowest >= 0 and highest < classes:
            return
        outside = (target < 0) | (target >= classes)
        if self.ignore_index is not None:
            outside &= target != self.ignore_index
        bad = target[outside]
        if bad.numel():
            ignored = "" if self.ignore_index is None else f"; {self.ignore_index} is ignored"
            raise LossError(
                f"{self.name} got class {int(bad[0])} as a target, but the output has {classes} classes, numbered "
                f"0 to {classes - 1}{ignored}"
            )

    def _check_log_probabilities(self, output: Tensor) -> None:
        """Raise if log-probabilities exceed 0 by more than rounding, which torch accepts."""
        highest = float(output.max())
        if highest > 0.01:
            raise LossError(
                f"{self.name} needs log-probabilities, which are at most 0, but the output has {highest:g}: let the "
                "model return log_softmax, or use cross_entropy for logits"
            )

    def _check_probabilities(self, target: Tensor) -> None:
        """Raise if class probabilities are outside [0, 1] by more than rounding, which torch accepts."""
        bad = [end for end in map(float, target.aminmax()) if not -0.01 <= end <= 1.01]
        if bad:
            raise LossError(
                f"{self.name} reads targets of the output's shape {tuple(target.shape)} as class probabilities, but "
                f"got {bad[-1]:g}; for other numbers, use a loss such as mse_loss"
            )

    def _misfit(self, output: Tensor, target: Tensor, dim: int) -> str:
        shape = tuple(output.shape)
        positions = shape[:dim] + shape[dim + 1 :]
        text = (
            f"{self.name} reads dimension {dim} of the output {shape} as {shape[dim]} classes, so targets must be "
            f"int64 class indices of shape {positions}, not {describe(target)}"
        )
        if tuple(target.shape) == shape[:-1] and output.ndim > 2:
            order = (0, output.ndim - 1, *range(1, output.ndim - 1))
            move = "output.transpose(1, 2)" if output.ndim == 3 else f"output.permute{order}"
            return (
                f"{text}. These targets fit classes in the last dimension, as in language models: give "
                f"logits=lambda output: {move.replace('output', 'logits_of(output)', 1)}, with logits_of from "
                "anywidth.training, or a custom loss with its distillation"
            )
        for extra in (-1, 1):
            if is_integer(target) and target.ndim > 1 and target.squeeze(extra).shape == positions:
                return f"{text}: use target.squeeze({extra})"
        if target.is_floating_point() and tuple(target.shape) == positions:
            return f"{text}: use target.long(), or a regression loss such as mse_loss"
        return f"{text}; use a loss that fits these targets"


@register(
    function=F.cross_entropy, module=nn.CrossEntropyLoss, arguments="weight ignore_index label_smoothing reduction"
)
def _cross_entropy(loss: Callable[..., Tensor], given: Mapping[str, Any]) -> CrossEntropy:
    return CrossEntropy(
        name=loss_name(loss),
        weight=given.get("weight"),
        ignore_index=given.get("ignore_index", -100),
        reduction=given["reduction"],
    )


@register(function=F.nll_loss, module=nn.NLLLoss, arguments="weight ignore_index reduction")
def _nll(loss: Callable[..., Tensor], given: Mapping[str, Any]) -> CrossEntropy:
    return CrossEntropy(
        name=loss_name(loss),
        log_probabilities=True,
        kinds=("indices",),
        weight=given.get("weight"),
        ignore_index=given.get("ignore_index", -100),
        reduction=given["reduction"],
    )


@register(module=("timm", "LabelSmoothingCrossEntropy"), arguments="")
def _timm_smoothing(loss: Callable[..., Tensor], given: Mapping[str, Any]) -> CrossEntropy:
    return CrossEntropy(name=loss_name(loss), classes_last=True, kinds=("indices",), ignore_index=None)


@register(module=("timm", "SoftTargetCrossEntropy"), arguments="")
def _timm_soft_targets(loss: Callable[..., Tensor], given: Mapping[str, Any]) -> CrossEntropy:
    return CrossEntropy(name=loss_name(loss), classes_last=True, kinds=("probabilities",), ignore_index=None)
