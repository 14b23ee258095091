"""Token classification: one class per token, such as named entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from anywidth.core.errors import LossError
from anywidth.tasks.classification import at_least_two
from anywidth.tasks.from_loss import TaskFromLoss
from anywidth.tasks.outputs import logits_of

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["TokenClassification"]


class TokenClassification(TaskFromLoss):
    """One class per token: cross-entropy, distilled to the teacher's probabilities of every token; accuracy.

    Outputs are logits of shape (batch, tokens, classes), also as `logits` of an object (Hugging Face). Targets are
    class indices of shape (batch, tokens).

    Args:
        classes: Number of classes, at least 2.
        ignore: Target value of tokens without a class, such as padding.

    Raises:
        SettingsError: there are less than two classes.

    >>> import torch
    >>> TokenClassification(3).loss(torch.zeros(1, 2, 3), torch.tensor([[1, -100]]))
    tensor(1.0986)
    """

    def __init__(self, classes: int, *, ignore: int = -100) -> None:
        super().__init__(
            nn.CrossEntropyLoss(ignore_index=ignore),
            logits=_classes_second,
            classes=at_least_two(classes, "use MultiLabel for a yes or no per token"),
            ignore=ignore,
        )

    def metrics(self) -> Mapping[str, Metric]:
        """Accuracy over tokens and F1 over classes (macro), in percent."""
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

        from anywidth.tasks.task_metric import TaskMetric

        return {
            "accuracy": TaskMetric(
                MulticlassAccuracy(self.classes, average="micro", ignore_index=self.ignore), unit="%"
            ),
            "F1": TaskMetric(MulticlassF1Score(self.classes, ignore_index=self.ignore), unit="%"),
        }

    def predict(self, output: Any) -> Tensor:
        """Class indices of shape (batch, tokens)."""
        return super().predict(output).argmax(1)


def _classes_second(output: Any) -> Tensor:
    found = logits_of(output)
    if found.ndim != 3:
        raise LossError(f"TokenClassification needs logits of shape (batch, tokens, classes), not {tuple(found.shape)}")
    return found.transpose(1, 2)
