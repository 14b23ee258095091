"""The objective of a training step: loss, distillation and logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anywidth.core.errors import LossError, first_line
from anywidth.tasks.cross_entropy import CrossEntropy
from anywidth.tasks.fitting import describe, require_same_shape
from anywidth.tasks.known import KnownLoss, known_losses, loss_name, recognise, takes_a_tensor, unwrapped
from anywidth.tasks.outputs import detached, logits_of
from anywidth.tasks.soft_cross_entropy import soft_cross_entropy
from anywidth.tasks.task import DistillationFunction, Distillations, Loss, Task, takes_target

__all__ = ["Logits", "Objective", "TaskObjective", "distillation_of", "objective_of"]

Logits = Callable[[Any], Any]
"""Selects the compared tensors from a model's output: one tensor, or a tuple or dict of tensors."""


def objective_of(
    loss: Loss | None,
    *,
    distillation: Distillations | None = "auto",
    logits: Logits = logits_of,
    task: Task | None = None,
) -> Objective | TaskObjective:
    """Objective from the arguments of a step, a training module or a search.

    Args:
        loss: `loss(output, targets)`; None means cross-entropy.
        distillation: See `sandwich_step`.
        logits: See `sandwich_step`.
        task: Replaces all other arguments, except that `distillation=None` trains every width on the targets.

    Raises:
        LossError: the arguments contradict each other, or the loss is unusable for training.

    >>> import torch.nn.functional as F
    >>> objective_of(F.mse_loss).distills
    True
    """
    if task is None:
        return Objective(F.cross_entropy if loss is None else loss, distillation, logits)
    own = distillation is not None and distillation != "auto"
    given = {"loss": loss is not None, "distillation": own, "logits": logits is not logits_of}
    if any(given.values()):
        names = ", ".join(name for name, is_given in given.items() if is_given)
        raise LossError(f"task= includes its loss and distillation; leave out {names}, or leave out the task")
    if isinstance(task, type) or not isinstance(task, Task):
        what = f"the class {task.__name__}" if isinstance(task, type) else f"a {type(task).__name__}"
        raise LossError(f"task= is {what}; it needs an object with loss(output, target) and distill(output, teacher)")
    return TaskObjective(task, distills=distillation is not None)


def distillation_of(loss: Loss) -> DistillationFunction | None:
    """Distillation that follows from a loss, as `distill(student, teacher, target=None)`; None if it is ambiguous.

    >>> import torch.nn.functional as F
    >>> distillation_of(F.mse_loss)(torch.tensor([1.0]), torch.tensor([3.0]))
    tensor(4.)
    >>> distillation_of(F.kl_div)
    """
    known = recognise(loss)
    return None if known is None else known.distill


@dataclass
class Objective:
    """A loss and its distillation.

    Losses from torch, torchvision and timm compare the logits with the targets; any other function receives the model's
    output. A distillation compares what `logits` selects from the outputs of student and teacher.

    Attributes:
        loss: `loss(output, targets)`, a scalar.
        distillation: As in `sandwich_step`.
        logits: Selects the compared tensors from an output.
    """

    loss: Loss
    distillation: Distillations | None = "auto"
    logits: Logits = logits_of
    _known: KnownLoss | None = field(init=False)
    _on_logits: bool = field(init=False)

    def __post_init__(self) -> None:
        if not callable(self.loss):
            raise LossError(f"loss is {describe(self.loss)}; give a function of output and targets")
        self._known = recognise(self.loss)
        self._on_logits = self._known is not None or takes_a_tensor(self.loss)
        self._function = self._understood(self.distillation)

    @property
    def distills(self) -> bool:
        """Whether narrower widths learn from a teacher."""
        return self.distillation is not None

    def require_distillation(self) -> None:
        """Raise if narrow widths are distilled but the distillation is unknown.

        Raises:
            LossError: the distillation does not follow from the loss.
        """
        if self._known is None and any(one == "auto" for _, one in _parts(self.distillation)):
            raise LossError(
                "the distillation of narrow widths does not follow from the loss "
                f"{loss_name(self.loss)}. Give distillation= a function of the logits of student and teacher, such as "
                "anywidth.training.soft_cross_entropy (classes in dimension 1; partial(soft_cross_entropy, dim=-1) for "
                "language models) or torch.nn.functional.mse_loss (regression); or distillation=None to train all "
                "widths on the targets; or task= an object with loss(output, target) and distill(output, teacher). "
                f"Losses with a known distillation: {', '.join(known_losses())} and their modules"
            )

    def check(self, output: Any, target: Any, *, values: bool, teacher: Any = None) -> None:
        """Raise if outputs or targets do not fit the loss, before anything is learned.

        Args:
            output: The model's output.
            target: The targets.
            values: Whether to check the numbers too, which synchronizes a GPU.
            teacher: The result of `teach`, if another network is the teacher.

        Raises:
            LossError: outputs and targets do not fit.
        """
        if self.logits is logits_of and any(map(_classes_in_dimension_1, (self.loss, self.distillation))):
            self._refuse_language_models(output)
        if self._known is not None:
            self._known.check(self._compared(output), target, values=values)
        if isinstance(self._function, dict):
            self._check_parts(self.logits(output))
        elif self.distillation == "auto" and self._known is not None:
            found = self.logits(output)
            require_same_shape(loss_name(self.loss), found, found if teacher is None else teacher)

    def value(self, output: Any, target: Any) -> Tensor:
        """Loss on the targets, a scalar.

        Raises:
            LossError: a torch loss cannot compare them, or a loss does not return a scalar.
        """
        if not self._on_logits:
            return require_scalar(self.loss(output, target), f"loss {loss_name(self.loss)}")
        found = self._compared(output)
        try:
            value = self.loss(found, target)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
            raise LossError(
                f"loss {loss_name(self.loss)} failed on an output of {describe(found)} and targets of "
                f"{describe(target)}: {first_line(error)}"
            ) from error
        return require_scalar(value, f"loss {loss_name(self.loss)}")

    def teach(self, output: Any) -> Any:
        """Detached part of a teacher's output that students learn from."""
        return detached(self.logits(output))

    def distill(self, output: Any, teacher: Any, target: Any) -> Tensor:
        """Loss of a student's output against the result of `teach`, a scalar."""
        student = self.logits(output)
        if callable(self._function):
            return require_scalar(self._function(student, teacher, target), "the distillation")
        parts: list[Tensor] = []
        for key, function in self._function.items():
            if function is not None:
                parts.append(require_scalar(function(student[key], teacher[key], target), f"distillation {key!r}"))
        return torch.stack(parts).sum()

    def _compared(self, output: Any) -> Tensor:
        """Tensor that the loss compares."""
        return logits_of(self.logits(output))

    def _refuse_language_models(self, output: Any) -> None:
        """Raise for Hugging Face logits, shaped (batch, tokens, classes), unless `logits` locates the classes."""
        found = getattr(output, "logits", None)
        if isinstance(found, Tensor) and found.ndim == 3:
            raise LossError(
                "cross-entropy reads classes from dimension 1, but language models put them last, such as "
                f"{type(output).__name__}.logits of shape {tuple(found.shape)}. Give "
                "logits=lambda output: output.logits.transpose(1, 2); to predict the next token, "
                "logits=lambda output: output.logits[:, :-1].transpose(1, 2) with the targets ids[:, 1:]; or, if the "
                "classes are in dimension 1, logits=lambda output: output.logits"
            )

    def _understood(self, distillation: Any) -> Any:
        """Distillation as a function of student, teacher and target, or as a dict of them for several tensors."""
        if distillation is None or distillation == "auto":
            return self._known.distill if self._known is not None else None
        if callable(distillation):
            return _with_target(distillation)
        if isinstance(distillation, (Mapping, tuple, list)):
            found = {key: None if one is None else self._understood(one) for key, one in _parts(distillation)}
            if any(isinstance(one, dict) for one in found.values()) or not any(found.values()):
                raise LossError("distillation= for several tensors needs a function, 'auto' or None for each tensor")
            return found
        raise LossError(
            f"distillation is {distillation!r}; give a function of student and teacher, None, or leave it out"
        )

    def _check_parts(self, found: Any) -> None:
        """Raise unless `logits` returns the tensors that the distillation was given for."""
        keys = [key for key, _ in _parts(found)] if isinstance(found, (Mapping, tuple, list)) else None
        wanted = list(self._function)
        if keys is None or sorted(map(repr, keys)) != sorted(map(repr, wanted)):
            have = f"{type(found).__name__} of {keys}" if keys is not None else describe(found)
            raise LossError(
                f"distillation= is given for {wanted}, but logits= returns a {have}; make them match, with None for "
                "tensors that are not distilled"
            )


@dataclass
class TaskObjective:
    """Objective of a custom task, which receives the model's output."""

    task: Task
    distills: bool = True

    def __post_init__(self) -> None:
        self._on_target = takes_target(self.task.distill)

    def require_distillation(self) -> None:
        """Do nothing: a task includes its distillation."""

    def check(self, output: Any, target: Any, *, values: bool, teacher: Any = None) -> None:
        """Call the task's own `check(output, target, values=...)`, if it has one."""
        check = getattr(self.task, "check", None)
        if check is not None:
            check(output, target, values=values)

    def value(self, output: Any, target: Any) -> Tensor:
        """Loss on the targets, a scalar."""
        return require_scalar(self.task.loss(output, target), f"the loss of task {type(self.task).__name__}")

    def teach(self, output: Any) -> Any:
        """Detached output of the teacher."""
        return detached(output)

    def distill(self, output: Any, teacher: Any, target: Any) -> Tensor:
        """Loss against a teacher's output, a scalar."""
        extra = {"target": target} if self._on_target else {}
        return require_scalar(
            self.task.distill(output, teacher, **extra), f"distill of task {type(self.task).__name__}"
        )


def require_scalar(value: Any, name: str) -> Tensor:
    """The value itself, if it is a tensor with a single number.

    Raises:
        LossError: it is something else.
    """
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise LossError(f"{name} returned {describe(value)}; training needs a scalar tensor, such as a mean")
    return value if value.ndim == 0 else value.reshape(())


def _with_target(distillation: Callable[..., Any]) -> Callable[[Any, Any, Any], Any]:
    """A distillation as a function of student, teacher and target."""
    known = recognise(distillation)
    if known is not None:  # a known loss: use its distillation instead of reading logits as labels
        return known.distill
    if takes_a_tensor(distillation):
        raise LossError(
            f"distillation={loss_name(distillation)} would read the teacher's logits as labels; give a function that "
            "interprets them, such as "
            "lambda student, teacher: F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction='batchmean')"
        )
    if takes_target(distillation):
        return lambda student, teacher, target: distillation(student, teacher, target=target)
    return lambda student, teacher, target: distillation(student, teacher)


def _classes_in_dimension_1(function: Any) -> bool:
    """Whether a loss or a distillation reads classes from dimension 1."""
    if not callable(function):
        return False
    inner, given = unwrapped(function)
    if inner is soft_cross_entropy:
        return given.get("dim", 1) == 1
    known = recognise(function)
    return isinstance(known, CrossEntropy) and not known.classes_last


def _parts(several: Any) -> list[tuple[Any, Any]]:
    """Pairs of key and item of a tuple, list or dict; any other value is a single item."""
    if isinstance(several, Mapping):
        return list(several.items())
    return list(enumerate(several if isinstance(several, (tuple, list)) else (several,)))
