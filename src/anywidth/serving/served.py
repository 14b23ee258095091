"""The network that a server offers: its widths, their costs, and the meaning of budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anywidth.core.errors import BudgetError, ExportError, WidthError
from anywidth.serving.governor import Governor
from anywidth.serving.images import ImageReader
from anywidth.serving.ladder import Ladder
from anywidth.serving.refusal import Refusal
from anywidth.serving.service_times import ServiceTimes, batch_sizes, measure
from anywidth.widths import parse_budget

__all__ = ["Point", "Served", "measure_ladder"]

_QUANTITIES = {"latency": "ms", "macs": "MACs", "params": "parameters"}
"""Costs that a request may limit, with their units."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """A width of the spectrum: MACs per sample, parameters, and accuracy in percent, if measured."""

    width: float
    macs: int
    params: int
    accuracy: float | None = None


@dataclass(frozen=True, kw_only=True)
class Served:
    """A network that is served.

    Attributes:
        name: Name in URLs; letters, digits, `.`, `_` and `-`.
        ladder: Its widths.
        points: Costs of each width, in the order of the ladder's widths.
        classes: The class names of a classifier.
        reader: Reads image files, if the network accepts images.
    """

    name: str
    ladder: Ladder
    points: Sequence[Point]
    classes: Sequence[str] = ()
    reader: ImageReader | None = None

    def __post_init__(self) -> None:
        if not self.name or not all(c.isascii() and (c.isalnum() or c in "._-") for c in self.name):
            raise ExportError(f"the name {self.name!r} is part of URLs; use letters, digits, '.', '_' and '-'")
        if tuple(point.width for point in self.points) != self.ladder.widths:
            raise WidthError(f"points are for {[p.width for p in self.points]}, the ladder has {self.ladder.widths}")

    def point(self, width: float) -> Point:
        """The point of a width."""
        return next(point for point in self.points if point.width == width)

    def exact(self, width: float, governor: Governor) -> float:
        """The requested width, if it is one of the governor's.

        Raises:
            Refusal: it is not offered (status 400).
        """
        if width in governor.widths:
            return width
        known = ", ".join(f"{offered!r}" for offered in governor.widths)
        raise Refusal(400, f"width {width!r} is not offered; there are {known}")

    def within(self, budget: str, governor: Governor, rows: int) -> float:
        """The widest width within a request's budget: `5ms` for its rows, `macs<=1e6` or `params<=0.5x`.

        Raises:
            Refusal: the budget is malformed, or no width meets it (status 400).
        """
        try:
            parsed = parse_budget(budget)
            quantity = parsed.quantity_among(_QUANTITIES)
        except BudgetError as error:
            raise Refusal(400, str(error)[:300]) from None
        costs: dict[str, Callable[[float], float]] = {
            "latency": lambda width: 1e3 * governor.seconds(width, rows),
            "macs": lambda width: self.point(width).macs,
            "params": lambda width: self.point(width).params,
        }
        cost = costs[quantity]
        limits = parsed.absolute(cost(governor.widths[-1]))
        fitting = [width for width in governor.widths if limits.admits(cost(width))]
        if not fitting:
            narrowest = governor.widths[0]
            raise Refusal(400, f"no width meets {budget[:50]!r}: the narrowest takes {cost(narrowest):.4g}")
        return fitting[-1]


def measure_ladder(ladder: Ladder, *, rows: int, rounds: int = 5) -> ServiceTimes:
    """The times of a ladder's widths on this machine, for batches up to a number of rows.

    Raises:
        ExportError: a dimension other than the batch is not fixed, so no example input can be created.

    >>> import torch
    >>> from torch import nn
    >>> from anywidth.supernet import Supernet
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))
    >>> measure_ladder(Ladder.share(net, [0.25, 1.0]), rows=4, rounds=1).sizes
    (1, 2, 4)
    """
    shapes = [spec.shape[1:] for spec in ladder.inputs]
    if any(size is None for shape in shapes for size in shape):
        raise ExportError(f"inputs {shapes} have sizes that are not fixed, besides the batch; cannot measure times")

    def run(width: float, count: int) -> None:
        inputs = [
            np.zeros((count, *(size or 1 for size in shape)), spec.dtype)
            for spec, shape in zip(ladder.inputs, shapes, strict=True)
        ]
        ladder.run(inputs, width=width)

    return measure(run, ladder.widths, batch_sizes(rows), rounds=rounds)
