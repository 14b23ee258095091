"""Semantic segmentation: one class per pixel."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.core.errors import LossError
from anywidth.tasks.classification import at_least_two
from anywidth.tasks.from_loss import TaskFromLoss
from anywidth.tasks.outputs import logits_of

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Segmentation"]


class Segmentation(TaskFromLoss):
    """One class per pixel: cross-entropy, distilled to the teacher's class probabilities of every pixel; mean IoU.

    Outputs are logits of shape (batch, classes, height, width), also as `out` of a dict (torchvision) or `logits` of an
    object (Hugging Face). Targets are class indices of shape (batch, height, width).

    Args:
        classes: Number of classes, at least 2, with the background.
        ignore: Target value of pixels without a class.
        scale: Factor from the size of the output to that of the target, by which logits are enlarged; 4 for SegFormer.
        auxiliary: Weight of the loss of `aux`, the second head of torchvision's networks, if the output has one.
        weight: Weight of each class, shape (classes,).

    Raises:
        SettingsError: there are less than two classes.

    >>> import torch
    >>> task = Segmentation(3)
    >>> task.predict({"out": torch.zeros(1, 3, 4, 4)}).shape
    torch.Size([1, 4, 4])
    """

    def __init__(
        self,
        classes: int,
        *,
        ignore: int = 255,
        scale: float = 1,
        auxiliary: float = 0.5,
        weight: Tensor | None = None,
    ) -> None:
        super().__init__(
            nn.CrossEntropyLoss(ignore_index=ignore, weight=weight),
            logits=partial(_enlarged, scale=scale),
            classes=at_least_two(classes, "count the background as a class"),
            ignore=ignore,
        )
        self.auxiliary, self.scale = auxiliary, scale

    def check(self, output: Any, target: Any, *, values: bool) -> None:
        """Raise a `LossError` if logits and masks do not fit."""
        logits = self._objective.logits(output)
        size = getattr(target, "shape", ())[-2:]
        if logits.ndim == 4 and len(size) == 2 and logits.shape[-2:] != size:
            raise LossError(
                f"the logits are {tuple(logits.shape)}, but the masks {tuple(target.shape)}: give "
                "Segmentation(scale=...), the factor between their sizes, or masks of the size of the output"
            )
        super().check(output, target, values=values)

    def loss(self, output: Any, target: Any) -> Tensor:
        """Mean cross-entropy over the pixels that have a class, plus that of a second head."""
        second, loss = _second(output), super().loss(output, target)
        return loss if second is None else loss + self.auxiliary * super().loss(second, target)

    def distill(self, output: Any, teacher: Any, target: Any = None) -> Tensor:
        """Cross-entropy against the teacher's probabilities, plus that of a second head."""
        second, taught = _second(output), _second(teacher)
        loss = super().distill(output, teacher, target)
        if second is None or taught is None:
            return loss
        return loss + self.auxiliary * super().distill(second, taught, target)

    def metrics(self) -> Mapping[str, Metric]:
        """Mean IoU over classes and pixel accuracy, in percent, from the pixels of all images together."""
        from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

        from anywidth.tasks.task_metric import TaskMetric

        return {
            "mIoU": TaskMetric(MulticlassJaccardIndex(self.classes, ignore_index=self.ignore), unit="%"),
            "pixel accuracy": TaskMetric(
                MulticlassAccuracy(self.classes, average="micro", ignore_index=self.ignore), unit="%"
            ),
        }

    def predict(self, output: Any) -> Tensor:
        """Class indices of shape (batch, height, width)."""
        return super().predict(output).argmax(1)


def _enlarged(output: Any, *, scale: float) -> Tensor:
    logits = logits_of(output)
    if scale == 1:
        return logits
    return F.interpolate(logits, scale_factor=scale, mode="bilinear", align_corners=False)


def _second(output: Any) -> Tensor | None:
    return output.get("aux") if isinstance(output, Mapping) else None
