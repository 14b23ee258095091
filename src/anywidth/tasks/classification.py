"""Classification with one class per sample, or with several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from anywidth.core.errors import LossError, SettingsError
from anywidth.tasks.from_loss import TaskFromLoss

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Classification", "MultiLabel"]


class Classification(TaskFromLoss):
    """One class per sample: cross-entropy, distilled to the teacher's class probabilities; top-1 accuracy in percent.

    Outputs are logits of shape (batch, classes), targets class indices of shape (batch,).

    Args:
        classes: Number of classes, at least 2.
        label_smoothing: As in `F.cross_entropy`; not applied to the teacher's probabilities.
        weight: Weight of each class, shape (classes,).

    Raises:
        SettingsError: there is less than two classes.

    >>> import torch
    >>> task = Classification(3)
    >>> task.predict(torch.zeros(1, 3))
    tensor([[0.3333, 0.3333, 0.3333]])
    """

    def __init__(self, classes: int, *, label_smoothing: float = 0.0, weight: Tensor | None = None) -> None:
        super().__init__(
            nn.CrossEntropyLoss(label_smoothing=label_smoothing, weight=weight),
            classes=at_least_two(classes, "use MultiLabel for a single yes or no"),
        )

    def metrics(self) -> Mapping[str, Metric]:
        """Top-1 accuracy in percent."""
        from torchmetrics.classification import MulticlassAccuracy

        from anywidth.tasks.task_metric import TaskMetric

        return {"accuracy": TaskMetric(MulticlassAccuracy(self.classes, average="micro"), unit="%")}

    def predict(self, output: Any) -> Tensor:
        """Class probabilities of shape (batch, classes)."""
        return super().predict(output).softmax(1)


class MultiLabel(TaskFromLoss):
    """Any number of labels per sample: binary cross-entropy, distilled to the teacher's probabilities.

    Outputs are logits of shape (batch, labels), targets floats 0 or 1 of the same shape. The metric is the mean average
    precision over labels, in percent; a label without positive targets counts as 0. F1 at a probability of 0.5 is the
    second. One label is a yes-or-no question.

    Args:
        labels: Number of labels.
        pos_weight: Weight of positive targets, shape (labels,).

    >>> import torch
    >>> task = MultiLabel(2)
    >>> task.predict(torch.zeros(1, 2))
    tensor([[0.5000, 0.5000]])
    """

    def __init__(self, labels: int, *, pos_weight: Tensor | None = None) -> None:
        super().__init__(nn.BCEWithLogitsLoss(pos_weight=pos_weight))
        if labels < 1:
            raise SettingsError(f"labels={labels}; give the number of labels, which is at least 1")
        self.labels = labels

    def check(self, output: Any, target: Any, *, values: bool) -> None:
        """Raise a `LossError` if outputs and targets do not fit, or a target is neither 0 nor 1."""
        super().check(output, target, values=values)
        if values and not bool(((target == 0) | (target == 1)).all()):
            bad = target[(target != 0) & (target != 1)]
            raise LossError(f"a target is {float(bad[0]):g}; the targets of labels are 0 or 1")

    def metrics(self) -> Mapping[str, Metric]:
        """Mean average precision over labels and F1, both in percent."""
        from torchmetrics.classification import (
            BinaryAveragePrecision,
            BinaryF1Score,
            MultilabelAveragePrecision,
            MultilabelF1Score,
        )

        from anywidth.tasks.task_metric import TaskMetric

        if self.labels == 1:
            found = {"average precision": BinaryAveragePrecision(), "F1": BinaryF1Score()}
        else:
            found = {"mAP": MultilabelAveragePrecision(self.labels), "F1": MultilabelF1Score(self.labels)}
        return {name: TaskMetric(metric, unit="%", prepare=_integer_target) for name, metric in found.items()}

    def predict(self, output: Any) -> Tensor:
        """Probabilities of shape (batch, labels)."""
        return super().predict(output).sigmoid()


def at_least_two(classes: int, otherwise: str) -> int:
    """The number of classes itself, if it is at least 2.

    Raises:
        SettingsError: it is smaller.
    """
    if classes < 2:
        raise SettingsError(f"classes={classes}; a classification needs at least 2; {otherwise}")
    return classes


def _integer_target(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return prediction, target.long()
