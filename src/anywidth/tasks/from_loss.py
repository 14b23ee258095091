"""Base class of tasks whose distillation follows from a loss of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from anywidth.core.errors import LossError
from anywidth.core.tensors import tensors_in
from anywidth.tasks.objective import Logits, Objective
from anywidth.tasks.outputs import logits_of
from anywidth.tasks.task import Loss, plain_attributes

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["TaskFromLoss"]


class TaskFromLoss:
    """A task with a loss of torch, and the distillation that follows from it.

    Subclasses add `metrics` and, unless the output itself is the prediction, `predict`.

    Args:
        loss: A loss whose distillation is known, such as `F.cross_entropy`; see `distillation_of`.
        logits: Finds the compared tensor in a model's output.
        classes: Required size of dimension 1 of that tensor, if any.
        ignore: Value of targets that do not count, if any; a batch without others has loss 0.

    Raises:
        LossError: the distillation does not follow from the loss.

    >>> import torch
    >>> import torch.nn.functional as F
    >>> class Depth(TaskFromLoss):
    ...     def __init__(self):
    ...         super().__init__(F.l1_loss)
    ...
    ...     def metrics(self):
    ...         from torchmetrics import MeanAbsoluteError
    ...
    ...         return {"error": MeanAbsoluteError()}
    >>> Depth().distill(torch.tensor([1.0]), torch.tensor([3.0]))
    tensor(2.)
    """

    def __init__(
        self, loss: Loss, *, logits: Logits = logits_of, classes: int | None = None, ignore: int | None = None
    ) -> None:
        self._objective = Objective(loss, "auto", logits)
        self._objective.require_distillation()
        self.classes: Any = classes  # an int in tasks of classes
        self.ignore = ignore

    def __repr__(self) -> str:
        """The class and all its numbers and names, by which a search knows what its stored scores belong to."""
        loss, parts = self._objective.loss, plain_attributes(self)
        if isinstance(loss, nn.Module):
            parts += plain_attributes(loss)
            parts += [f"{name}={buffer.tolist()}" for name, buffer in loss.named_buffers()]
        return f"{type(self).__name__}({', '.join(parts)})"

    def check(self, output: Any, target: Any, *, values: bool) -> None:
        """Raise a `LossError` if outputs and targets do not fit; `values` also checks numbers, which syncs a GPU."""
        self._move(output)
        found = self._objective.logits(output)
        if self.classes is not None and found.ndim > 1 and found.shape[1] != self.classes:
            raise LossError(
                f"{type(self).__name__} is for {self.classes} classes, but dimension 1 of the output "
                f"{tuple(found.shape)} has {found.shape[1]}"
            )
        self._objective.check(output, target, values=values)

    def loss(self, output: Any, target: Any) -> Tensor:
        """Loss on the targets, a scalar."""
        if self._ignores_all(target):
            return 0 * self._objective.logits(output).sum()
        self._move(output)
        return self._objective.value(output, target)

    def distill(self, output: Any, teacher: Any, target: Any = None) -> Tensor:
        """Loss against a teacher's output, a scalar."""
        if self._ignores_all(target):
            return 0 * self._objective.logits(output).sum()
        self._move(output)
        return self._objective.distill(output, self._objective.teach(teacher), target)

    def metrics(self) -> Mapping[str, Metric]:
        """Metrics of torchmetrics that compare predictions with targets; the first ranks widths."""
        raise NotImplementedError(f"{type(self).__name__} has no metrics() yet; return a dict of torchmetrics metrics")

    def predict(self, output: Any) -> Any:
        """The prediction for a model's output: here, the compared tensor."""
        return self._objective.logits(output)

    def _ignores_all(self, target: Any) -> bool:
        """Whether no target counts, so that a mean over those that do does not exist. It synchronizes a GPU."""
        return self.ignore is not None and isinstance(target, Tensor) and bool((target == self.ignore).all())

    def _move(self, output: Any) -> None:
        """Move the weights of the loss, such as those of classes, to the device and dtype of the output."""
        loss = self._objective.loss
        if not isinstance(loss, nn.Module) or not any(True for _ in loss.buffers()):
            return
        like = next((leaf for leaf in tensors_in(output) if leaf.is_floating_point()), None)
        if like is None or all(b.device == like.device and b.dtype == like.dtype for b in loss.buffers()):
            return
        self._objective = Objective(loss.to(like), "auto", self._objective.logits)
