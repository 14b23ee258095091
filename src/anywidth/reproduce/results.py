"""Results of the arms of an experiment, over the seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student

from anywidth.core.errors import AnywidthError

__all__ = ["NARROWEST", "WIDEST", "At", "Curve", "Difference", "Point", "Results"]

At = Iterable[float | str] | float | str | None
"""Points at which curves are read: some x, one, or all."""

NARROWEST, WIDEST = "narrowest", "widest"
"""The smallest and the largest x of an arm."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measured value of one seed.

    Attributes:
        x: The point of measurement: a width, a number of images, the name of a stage.
        y: The value: a top-1 accuracy in percent unless the experiment defines another unit.
        macs: The cost of the network, if the picture shows it.
    """

    x: float | str
    y: float
    macs: int | None = None


Curve = Sequence[Point]
"""The points of one arm and one seed."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference over seeds between two arms, and its standard error, which is NaN for a single seed."""

    mean: float
    error: float
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Difference:
        """The mean and standard error of one number per seed.

        >>> Difference.of([1.0, 3.0])
        Difference(mean=2.0, error=1.0, seeds=2)
        """
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(mean=statistics.fmean(values), error=error, seeds=len(values))

    @property
    def margin(self) -> float:
        """Half of the 95% confidence interval, by Student's t, because the spread is estimated from few seeds.

        >>> round(Difference.of([1.0, 3.0, 5.0]).margin, 3)
        4.968
        """
        return float(student.ppf(0.975, self.seeds - 1)) * self.error if self.seeds > 1 else math.nan


class Results:
    """Curves by arm and seed; all seeds of an arm have the same x.

    >>> results = Results({"a": {0: [Point(x=0.5, y=80.0)], 1: [Point(x=0.5, y=82.0)]}})
    >>> results.mean("a"), round(results.spread("a"), 2)
    (81.0, 1.41)
    """

    def __init__(self, arms: Mapping[str, Mapping[int, Curve]]) -> None:
        self.arms = {arm: dict(sorted(seeds.items())) for arm, seeds in arms.items()}
        for arm, seeds in self.arms.items():
            if len({tuple(point.x for point in curve) for curve in seeds.values()}) != 1:
                raise AnywidthError(f"the seeds of {arm!r} were measured at different points; run it again")

    @classmethod
    def from_cells(cls, cells: Iterable[tuple[int, Mapping[str, Curve]]]) -> Results:
        """Collect pairs of a seed and its curves."""
        arms: dict[str, dict[int, Curve]] = {}
        for seed, curves in cells:
            for arm, curve in curves.items():
                arms.setdefault(arm, {})[seed] = curve
        return cls(arms)

    @property
    def seeds(self) -> list[int]:
        """The seeds of all arms."""
        return sorted({seed for seeds in self.arms.values() for seed in seeds})

    def xs(self, arm: str) -> list[float | str]:
        """The points at which an arm was measured, in order."""
        return [point.x for point in next(iter(self._of(arm).values()))]

    def macs(self, arm: str) -> list[int | None]:
        """The cost of an arm's networks by x, as a mean over the seeds, whose costs may differ."""
        known = [[point.macs for point in curve] for curve in self._of(arm).values()]
        means: list[int | None] = []
        for costs in zip(*known, strict=True):
            numbers = [cost for cost in costs if cost is not None]
            means.append(round(statistics.fmean(numbers)) if numbers else None)
        return means

    def values(self, arm: str, at: At = None) -> list[float]:
        """One number per seed: the mean over some x, by default all.

        The names `narrowest` and `widest` mean the smallest and the largest x.

        Raises:
            AnywidthError: the arm or an x of it does not exist.
        """
        wanted = None if at is None else [at] if isinstance(at, (float, int, str)) else list(at)
        found = []
        for curve in self._of(arm).values():
            by_x = {point.x: point.y for point in curve}
            numbers = sorted(x for x in by_x if not isinstance(x, str))
            if numbers:
                by_x |= {NARROWEST: by_x[numbers[0]], WIDEST: by_x[numbers[-1]]}
            missing = [x for x in wanted or () if x not in by_x]
            if missing:
                raise AnywidthError(f"{arm!r} was not measured at {missing[0]}, only at {', '.join(map(str, by_x))}")
            chosen = [point.y for point in curve] if wanted is None else [by_x[x] for x in wanted]
            found.append(statistics.fmean(chosen))
        return found

    def mean(self, arm: str, at: At = None) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values(arm, at))

    def spread(self, arm: str, at: At = None) -> float:
        """The standard deviation over seeds (n - 1), 0 for a single seed."""
        values = self.values(arm, at)
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def difference(self, arm: str, other: str, at: At = None) -> Difference:
        """The mean over seeds of the paired differences of two arms, and its standard error.

        The error is NaN for a single seed.
        """
        at = at if at is None or isinstance(at, (float, int, str)) else list(at)
        return Difference.of([a - b for a, b in zip(self.values(arm, at), self.values(other, at), strict=True)])

    def as_json(self) -> dict[str, Any]:
        """The results as JSON values."""
        return {
            arm: [
                {"x": x, **({} if macs is None else {"macs": macs}), "y": self.values(arm, x)}
                for x, macs in zip(self.xs(arm), self.macs(arm), strict=True)
            ]
            for arm in self.arms
        }

    @classmethod
    def from_json(cls, arms: Mapping[str, Sequence[Mapping[str, Any]]], seeds: Sequence[int]) -> Results:
        """Read the values that `as_json` returned."""
        return cls(
            {
                arm: {
                    seed: [Point(x=row["x"], y=row["y"][number], macs=row.get("macs")) for row in rows]
                    for number, seed in enumerate(seeds)
                }
                for arm, rows in arms.items()
            }
        )

    def _of(self, arm: str) -> dict[int, Curve]:
        if arm not in self.arms:
            raise AnywidthError(f"there is no arm {arm!r}; there are {', '.join(self.arms)}")
        return self.arms[arm]
