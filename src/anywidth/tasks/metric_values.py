"""Values of torchmetrics metrics over a dataset."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.core.batches import run_batches, samples
from anywidth.core.errors import DataError, LossError, first_line
from anywidth.core.modules import model_device
from anywidth.core.processes import all_gather
from anywidth.core.tensors import tensors_in

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["MetricValues", "metric_values"]

Check = Callable[..., None]


class MetricValues:
    """Metrics that are updated batch by batch.

    16-bit outputs and targets are compared in single precision.

    Args:
        metrics: The metrics by name, which are reset.
        predict: Returns what the metrics compare with the targets, for an output of the network.
        check: `check(output, targets, values=True)` of a task, which raises if they do not fit.
        device: Device of the outputs.
        pooled: Whether processes that train together combine their values.
    """

    def __init__(
        self,
        metrics: Mapping[str, Metric],
        predict: Callable[[Any], Any],
        check: Check | None,
        *,
        device: torch.device,
        pooled: bool = True,
    ) -> None:
        self._metrics, self._predict, self._check = metrics, predict, check
        for metric in metrics.values():
            metric.to(device).reset()
            for part in metric.modules():
                if hasattr(part, "sync_on_compute"):
                    part.sync_on_compute = pooled  # type: ignore[assignment]

    def update(self, output: Any, targets: Any) -> None:
        """Add a batch.

        Raises:
            LossError: the output contains NaN, or a metric does not fit the predictions and the targets.
        """
        output, targets = (pytree.tree_map_only(Tensor, _single_precision, part) for part in (output, targets))
        if any(bool(leaf.isnan().any()) for leaf in tensors_in(output) if leaf.is_floating_point()):
            raise LossError(
                "the output contains NaN; check the weights and inputs for NaN, or whether training diverged"
            )
        if self._check is not None:
            self._check(output, targets, values=True)
        prediction = self._predict(output)
        for name, metric in self._metrics.items():
            try:
                metric.update(prediction, targets)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise LossError(
                    f"metric {name!r} does not fit the predictions or the targets: {first_line(error)}"
                ) from error

    def values(self) -> dict[str, float]:
        """The values over all batches, by name.

        Raises:
            LossError: a metric cannot be computed, is not a single number, or is not finite.
        """
        found = {}
        for name, metric in self._metrics.items():
            try:
                value = metric.compute()
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise LossError(f"metric {name!r} cannot be computed: {first_line(error)}") from error
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise LossError(f"metric {name!r} must return one number; let it average over classes or outputs")
            found[name] = float(value)
            if not math.isfinite(found[name]):
                raise LossError(
                    f"metric {name!r} is {found[name]}; the weights or the data contain NaN, training diverged, or the "
                    "targets lack what it needs"
                )
        return found


def metric_values(
    network: nn.Module,
    loader: Iterable[Any],
    metrics: Mapping[str, Metric],
    predict: Callable[[Any], Any],
    check: Check | None = None,
) -> dict[str, float]:
    """Values of metrics for one network, by name, combined over processes that train together.

    Args:
        network: The network, in evaluation mode.
        loader: Batches of (inputs, targets); empty ones are skipped.
        metrics: As in `MetricValues`.
        predict: As in `MetricValues`.
        check: As in `MetricValues`.

    Raises:
        LossError: outputs and targets do not fit, or a metric is not finite.
        DataError: a process has no samples.
    """
    device, count = model_device(network), 0
    found = MetricValues(metrics, predict, check, device=device)
    for inputs, targets, output in run_batches(lambda inputs: inputs.call(network), loader, device):
        if samples(inputs):
            found.update(output, targets)
        count += samples(inputs)
    if not all(all_gather(count)):
        raise DataError("the evaluation loader is empty; give at least one batch to every process")
    return found.values()


def _single_precision(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
