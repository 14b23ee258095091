"""Metrics of torchmetrics with a unit, and with a preparation of predictions and targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.wrappers.abstract import WrapperMetric

__all__ = ["TaskMetric"]

Prepare = Callable[[Any, Any], tuple[Any, Any]]


class TaskMetric(WrapperMetric):
    """A metric of torchmetrics as tables and plots show it.

    Args:
        metric: The metric. It is updated, combined over processes and reset as before.
        unit: Unit to show; `"%"` also multiplies the value by 100.
        key: Entry of the metric's result, if this is a dict.
        undefined: Value that means that the metric is not defined, such as -1 for a mean average precision without any
            object; it becomes NaN.
        prepare: Changes predictions and targets before an update, such as the dtype of the targets.

    >>> import torch
    >>> from torchmetrics.classification import MulticlassAccuracy
    >>> metric = TaskMetric(MulticlassAccuracy(2, average="micro"), unit="%")
    >>> metric.update(torch.tensor([[0.1, 0.9], [0.2, 0.8]]), torch.tensor([1, 0]))
    >>> metric.compute(), metric.higher_is_better
    (tensor(50.), True)
    """

    def __init__(
        self,
        metric: Metric,
        *,
        unit: str = "",
        key: str | None = None,
        undefined: float | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        super().__init__()
        self.metric, self.unit, self.key, self.undefined, self.prepare = metric, unit, key, undefined, prepare

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """The direction of the metric."""
        return self.metric.higher_is_better

    def update(self, prediction: Any, target: Any) -> None:
        """Add predictions and targets of a batch."""
        self.metric.update(*self._prepared(prediction, target))

    def compute(self) -> Tensor:
        """The value over all batches since the last reset."""
        return self._shown(self.metric.compute())

    def forward(self, prediction: Any, target: Any) -> Tensor:
        """Add a batch; returns the value of this batch alone."""
        return self._shown(self.metric(*self._prepared(prediction, target)))

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self.metric.reset()

    def _prepared(self, prediction: Any, target: Any) -> tuple[Any, Any]:
        return (prediction, target) if self.prepare is None else self.prepare(prediction, target)

    def _shown(self, value: Any) -> Tensor:
        found = value if self.key is None else value[self.key]
        if self.undefined is not None:
            found = torch.where(found == self.undefined, torch.nan, found)
        return 100 * found if self.unit == "%" else found
