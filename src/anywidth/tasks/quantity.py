"""What a score measures: its name, unit and direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anywidth.core.errors import LossError
from anywidth.tasks.task import MeasuredTask, Task

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["ACCURACY", "Quantity", "metrics_of", "shortened"]


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A score by which networks are compared.

    Attributes:
        name: Name for tables, plots and columns of files.
        unit: Unit, if it has one.
        higher_is_better: Its direction.

    >>> str(Quantity(name="PSNR", unit="dB")), Quantity(name="PSNR", unit="dB").text(31.234)
    ('PSNR (dB)', '31.23 dB')
    """

    name: str
    unit: str = ""
    higher_is_better: bool = True

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def text(self, value: float) -> str:
        """A value with its unit; with two decimal places from 10 on, in percent and in dB, else four digits."""
        number = f"{value:.2f}" if abs(value) >= 10 or self.unit in ("%", "dB") else f"{value:.4g}"
        return f"{number} {self.unit}".rstrip()


ACCURACY = Quantity(name="accuracy", unit="%")
"""Top-1 accuracy in percent, the default."""


def metrics_of(task: Task) -> Mapping[str, Metric]:
    """The metrics of a task, of which the first ranks widths.

    Raises:
        LossError: the task has no metrics or predictions, or the first metric has no direction.
    """
    if isinstance(task, type):
        raise LossError(f"task= is the class {task.__name__}; give an object of it")
    if not isinstance(task, MeasuredTask):
        raise LossError(
            f"task {type(task).__name__} cannot be scored without metrics() and predict(output); add them, or give "
            "score=, a function of output and targets that returns one number per sample"
        )
    metrics: Any = task.metrics()
    if not isinstance(metrics, Mapping) or not metrics:
        raise LossError(f"{type(task).__name__}.metrics() must return a dict of torchmetrics metrics by name")
    for name, metric in metrics.items():
        methods = all(callable(getattr(metric, method, None)) for method in ("update", "compute", "reset"))
        if isinstance(metric, type) or not methods:
            what = f"the class {metric.__name__}" if isinstance(metric, type) else f"a {type(metric).__name__}"
            raise LossError(f"metric {name!r} of {type(task).__name__} is {what}; give an object of torchmetrics")
    name, first = next(iter(metrics.items()))
    if not isinstance(getattr(first, "higher_is_better", None), bool):
        raise LossError(
            f"metric {name!r} of {type(task).__name__} ranks the widths, but its higher_is_better is "
            f"{getattr(first, 'higher_is_better', None)}; set it to True or False, or put another metric first"
        )
    return metrics


def shortened(score: float) -> float:
    """A score for a file: four decimal places, or six significant digits if it is below 1.

    >>> shortened(61.234567), shortened(0.0000123456789)
    (61.2346, 1.23457e-05)
    """
    return round(score, 4) if abs(score) >= 1 else float(f"{score:.6g}")
