"""Values of torchmetrics metrics over a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from anywidth.core.batches import run_batches, samples
from anywidth.core.errors import DataError, LossError, first_line
from anywidth.core.modules import model_device
from anywidth.core.processes import all_gather

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["metric_values"]


def metric_values(
    network: nn.Module, loader: Iterable[Any], metrics: Mapping[str, Metric], predict: Callable[[Any], Any]
) -> dict[str, float]:
    """Values of metrics for one network, by name.

    Args:
        network: The network, in evaluation mode.
        loader: Batches of (inputs, targets).
        metrics: The metrics, which are reset.
        predict: Returns what the metrics compare with the targets, for an output of the network.

    Raises:
        LossError: a metric does not fit the predictions and the targets, or is not finite.
        DataError: the loader is empty.
    """
    device, count = model_device(network), 0
    for metric in metrics.values():
        metric.to(device).reset()
    for inputs, targets, output in run_batches(lambda inputs: inputs.call(network), loader, device):
        count += samples(inputs)
        prediction = predict(output)
        for name, metric in metrics.items():
            try:
                metric.update(prediction, targets)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise LossError(
                    f"metric {name!r} does not fit the predictions or targets: {first_line(error)}"
                ) from error
    if not sum(all_gather(count)):
        raise DataError("the evaluation loader is empty; give at least one batch")
    found = {name: float(metric.compute()) for name, metric in metrics.items()}
    for name, value in found.items():
        if not math.isfinite(value):
            raise LossError(
                f"metric {name!r} is {value}; the weights or the data contain NaN, training diverged, or the targets "
                "lack what it needs"
            )
    return found
