"""The losses of a training step: what the sandwich step and the nested step share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

from torch import Tensor

from anywidth.tasks import Distillations, Logits, Loss, Objective, Task, TaskObjective, logits_of, objective_of
from anywidth.widths import WidthConfig

__all__ = ["Scale", "StepLosses", "StepOptions"]

Scale = float | Callable[[WidthConfig], float]
"""Factor of all losses, or of the loss of a config."""


class StepOptions(TypedDict, total=False):
    """Keyword arguments of `sandwich_step` and `nested_step` about their losses.

    Common losses determine what narrower widths learn. With cross-entropy, it is the teacher's probabilities over the
    classes of that loss; with squared, absolute, Huber and smooth L1 errors, the same error against the teacher's
    outputs; with binary cross-entropy, the teacher's probabilities. Arguments of the loss such as weights, `reduction`
    and `ignore_index` also apply; only labels are smoothed. Any other loss needs `distillation` or `task`.

    Attributes:
        loss: `loss(output, targets)`, a scalar; by default cross-entropy. A loss of torch, torchvision or timm receives
            the logits that `logits` finds, any other function receives the model's output.
        task: Loss and distillation in one object, instead of `loss`, `distillation` and `logits`.
        logits: Finds the logits in the model's output, or a tuple or dict of several tensors, such as features; the
            loss receives `logits` or the first one.
        distillation: `distillation(student_logits, teacher_logits)`, a scalar; a third parameter named `target`
            receives the targets. By default the loss determines it. A loss of torch means that loss against the
            teacher. None trains all widths on the labels. If `logits` finds several tensors, give one function of all
            of them, or a tuple or dict of functions, `"auto"` or None, whose values are summed.
        label_loss_weight: Weight of the label loss that is added to the distillation loss of the narrower widths; by
            default 0.
        scale: Factor of every loss, such as 1 / steps for gradient accumulation; or a function of the config that
            returns the factor, for example for smaller steps at narrow widths; by default 1.
        backward: How to run backward on a loss, such as `lambda l: scaler.scale(l).backward()`: on each scaled loss of
            a sandwich step, on their sum in a nested step.
    """

    loss: Loss | None
    task: Task | None
    logits: Logits
    distillation: Distillations | None
    label_loss_weight: float
    scale: Scale
    backward: Callable[[Tensor], object]


@dataclass(frozen=True, kw_only=True)
class StepLosses:
    """`StepOptions` with their defaults, and the losses that follow from them."""

    loss: Loss | None = None
    task: Task | None = None
    logits: Logits = logits_of
    distillation: Distillations | None = "auto"
    label_loss_weight: float = 0.0
    scale: Scale = 1.0
    backward: Callable[[Tensor], object] = Tensor.backward

    @cached_property
    def objective(self) -> Objective | TaskObjective:
        """What the widths learn.

        Raises:
            LossError: the options contradict each other, or the loss is unusable for training.
        """
        return objective_of(self.loss, distillation=self.distillation, logits=self.logits, task=self.task)

    def of(self, output: Any, targets: Any, soft: Any, *, learns: bool) -> Tensor:
        """Loss of one width: on the targets or, if it `learns` from the teacher, on the teacher's `soft` targets."""
        if not learns:
            return self.objective.value(output, targets)
        value = self.objective.distill(output, soft, targets)
        if self.label_loss_weight:
            value = value + self.label_loss_weight * self.objective.value(output, targets)
        return value

    def factor(self, config: WidthConfig) -> float:
        """Factor of the loss of a config."""
        return self.scale(config) if callable(self.scale) else self.scale
