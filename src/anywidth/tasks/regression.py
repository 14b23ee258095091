"""Regression: one or more numbers per sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from torch import nn

from anywidth.core.errors import SettingsError
from anywidth.tasks.from_loss import TaskFromLoss

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Regression"]

_LOSSES = {"squared": nn.MSELoss, "absolute": nn.L1Loss, "huber": nn.HuberLoss}


class Regression(TaskFromLoss):
    """Numbers: a squared, absolute or Huber error, distilled to the teacher's output by the same error.

    Outputs and targets are floats of the same shape. The first metric is the root mean squared error for the squared
    error, and the mean absolute error otherwise; lower is better. The second is the other of the two.

    Args:
        error: The loss.
        delta: Where the Huber error changes from squared to absolute.

    Raises:
        SettingsError: the error is unknown, or delta is not above 0.

    >>> import torch
    >>> task = Regression("absolute")
    >>> task.loss(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
    tensor(2.)
    """

    def __init__(self, error: Literal["squared", "absolute", "huber"] = "squared", *, delta: float = 1.0) -> None:
        if delta <= 0:
            raise SettingsError(f"delta={delta:g}; give a number above 0")
        if error not in _LOSSES:
            raise SettingsError(f"error={error!r}; give one of {', '.join(_LOSSES)}")
        super().__init__(nn.HuberLoss(delta=delta) if error == "huber" else _LOSSES[error]())
        self.error = error

    def metrics(self) -> Mapping[str, Metric]:
        """Root mean squared and mean absolute error."""
        from torchmetrics import MeanAbsoluteError, MeanSquaredError

        found = {"RMSE": MeanSquaredError(squared=False), "MAE": MeanAbsoluteError()}
        return found if self.error == "squared" else dict(reversed(found.items()))
