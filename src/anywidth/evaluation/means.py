"""Means over the samples of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from anywidth.core.batches import samples
from anywidth.core.errors import DataError
from anywidth.core.inputs import Inputs
from anywidth.core.processes import all_gather
from anywidth.evaluation.score import Score, score_samples

__all__ = ["mean_score", "means"]

Results = Iterable[tuple[Inputs, Any, Any]]
"""Inputs, targets and output of every batch, as from `anywidth.core.batches.run_batches`."""
Measure = Callable[[Inputs, Any, Any], tuple[Sequence[float], int]]
"""Sums over the samples of one batch, and the number of samples."""


def means(results: Results, measure: Measure, *, pooled: bool = True) -> list[float]:
    """Means over all samples; every sample has the same weight.

    Args:
        results: Inputs, targets and output of every batch.
        measure: Returns the sums of one batch, and its number of samples.
        pooled: Whether processes that train together combine their sums; all of them must call this function then.

    Raises:
        DataError: there are no samples.

    >>> batches = [(Inputs(args=(), kwargs={}), None, 1.0), (Inputs(args=(), kwargs={}), None, 4.0)]
    >>> means(batches, lambda inputs, targets, output: ((output, 2 * output), 2))
    [1.25, 2.5]
    """
    sums: list[float] = []
    count = 0
    for inputs, targets, output in results:
        parts, number = measure(inputs, targets, output)
        sums = [total + part for total, part in zip(sums or [0.0] * len(parts), parts, strict=True)]
        count += number
    shares = all_gather((sums, count)) if pooled else [(sums, count)]
    total = sum(number for _, number in shares)
    if not total:
        raise DataError("the evaluation loader is empty; give at least one batch")
    # A process without batches does not know how many sums there are.
    return [sum(column) / total for column in zip(*(share for share, _ in shares if share), strict=True)]


def mean_score(results: Results, score: Score, *, pooled: bool = True) -> float:
    """Mean score over all samples.

    Args:
        results: As in `means`.
        score: As in `anywidth.evaluate`.
        pooled: As in `means`.

    Raises:
        DataError: there are no samples.
        LossError: the score does not return one finite number per sample.

    >>> import torch
    >>> from anywidth.evaluation.score import top1
    >>> logits, classes = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])
    >>> mean_score([(Inputs(args=(torch.zeros(2, 4),), kwargs={}), classes, logits)], top1)
    50.0
    """

    def measure(inputs: Inputs, targets: Any, output: Any) -> tuple[Sequence[float], int]:
        total, number = score_samples(score, output, targets, samples=samples(inputs))
        return (total,), number

    return means(results, measure, pooled=pooled)[0]
