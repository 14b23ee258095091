"""Values of a task's metrics at one width."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from anywidth.supernet import Supernet
from anywidth.tasks import MeasuredTask, metric_values, metrics_of
from anywidth.widths import Width

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["measure", "values_of"]


@torch.inference_mode()
def measure(net: Supernet, loader: Iterable[Any], width: Width = 1.0, *, task: MeasuredTask) -> dict[str, float]:
    """Values of all metrics of a task at one width, by name, combined over processes that train together.

    Args:
        net: The supernet, which is not changed.
        loader: Batches of (inputs, targets).
        width: As in `Supernet.config`; must be calibrated.
        task: The metrics, and the predictions that they compare with the targets.

    Raises:
        LossError: the task has no metrics, or one of them does not fit the predictions or is not finite.
        UncalibratedError: the width has no up-to-date batch-norm statistics.
        DataError: the loader is empty.

    >>> from torch import nn
    >>> from anywidth.tasks import Regression
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> list(measure(net, [(torch.randn(8, 4), torch.zeros(8, 2))], 0.5, task=Regression()))
    ['RMSE', 'MAE']
    """
    return values_of(net, loader, width, task, metrics_of(task))


def values_of(
    net: Supernet, loader: Iterable[Any], width: Width, task: MeasuredTask, metrics: Mapping[str, Metric]
) -> dict[str, float]:
    """Values of some of the metrics of a task, as `measure` returns those of all."""
    return metric_values(net.extract(width).eval(), loader, metrics, task.predict, getattr(task, "check", None))
