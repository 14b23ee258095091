"""What a score function or a task measures."""

from __future__ import annotations

from anywidth.core.errors import LossError
from anywidth.evaluation.score import Score, top1
from anywidth.tasks import ACCURACY, Quantity, Task, loss_name, metrics_of

__all__ = ["quantity_of"]


def quantity_of(score: Score | None, task: Task | None) -> Quantity:
    """The quantity that a score or the first metric of a task measures.

    Raises:
        LossError: both are given, or the metrics of the task cannot rank widths.

    >>> from anywidth.tasks import Regression
    >>> quantity_of(None, Regression("absolute"))
    Quantity(name='MAE', unit='', higher_is_better=False)
    """
    if task is not None:
        if score is not None:
            raise LossError("task= includes its metrics; leave out score, or leave out the task")
        name, metric = next(iter(metrics_of(task).items()))
        return Quantity(
            name=name, unit=getattr(metric, "unit", ""), higher_is_better=bool(metric.higher_is_better)
        )  # fmt: skip
    if score is None or score is top1:
        return ACCURACY
    name = getattr(score, "__name__", "")
    return Quantity(name="score" if name in ("", "<lambda>") else loss_name(score).partition(" (")[0])
