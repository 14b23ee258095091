"""Base class of tasks whose distillation follows from a loss of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from anywidth.tasks.objective import Logits, Objective
from anywidth.tasks.outputs import logits_of
from anywidth.tasks.task import Loss

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["TaskFromLoss"]


class TaskFromLoss:
    """A task with a loss of torch, and the distillation that follows from it.

    Subclasses add `metrics` and, unless the output itself is the prediction, `predict`.

    Args:
        loss: A loss whose distillation is known, such as `F.cross_entropy`; see `distillation_of`.
        logits: Finds the compared tensor in a model's output.

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

    def __init__(self, loss: Loss, *, logits: Logits = logits_of) -> None:
        self._objective = Objective(loss, "auto", logits)
        self._objective.require_distillation()

    def check(self, output: Any, target: Any, *, values: bool) -> None:
        """Raise a `LossError` if outputs and targets do not fit; `values` also checks numbers, which syncs a GPU."""
        self._objective.check(output, target, values=values)

    def loss(self, output: Any, target: Any) -> Tensor:
        """Loss on the targets, a scalar."""
        return self._objective.value(output, target)

    def distill(self, output: Any, teacher: Any, target: Any = None) -> Tensor:
        """Loss against a teacher's output, a scalar."""
        return self._objective.distill(output, self._objective.teach(teacher), target)

    def metrics(self) -> Mapping[str, Metric]:
        """Metrics of torchmetrics that compare predictions with targets; the first ranks widths."""
        raise NotImplementedError(f"{type(self).__name__} has no metrics() yet; return a dict of torchmetrics metrics")

    def predict(self, output: Any) -> Any:
        """The prediction for a model's output: here, the compared tensor."""
        return self._objective.logits(output)
