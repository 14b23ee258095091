"""Expected times of batches at each width on this machine."""

from __future__ import annotations

import bisect
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from anywidth.core.errors import WidthError

__all__ = ["ServiceTimes", "batch_sizes", "measure"]


class ServiceTimes:
    """Expected seconds by width and rows of a batch, interpolated linearly between the measured sizes.

    Contradictions from noise are smoothed away: a width is never faster than a narrower one, and a batch never faster
    than a smaller one.

    Args:
        measured: Seconds by width and rows.

    Raises:
        WidthError: no widths were measured, or at different batch sizes.

    >>> times = ServiceTimes({0.5: {1: 0.001, 4: 0.004}, 1.0: {1: 0.002, 4: 0.011}})
    >>> round(times.seconds(1.0, 2), 6), round(times.seconds(0.5, 8), 6)
    (0.005, 0.008)
    """

    def __init__(self, measured: Mapping[float, Mapping[int, float]]) -> None:
        self.sizes = tuple(sorted(next(iter(measured.values()), {})))
        if not self.sizes or any(tuple(sorted(row)) != self.sizes for row in measured.values()):
            raise WidthError("service times need at least one width, and the same batch sizes for every width")
        self._seconds: dict[float, list[float]] = {}
        below = [0.0] * len(self.sizes)
        for width in sorted(measured):
            row = [measured[width][size] for size in self.sizes]
            if min(row) <= 0:
                raise WidthError(f"width {width:g} was measured to take {min(row)} s; measure it again")
            below = [max(pair) for pair in zip(below, itertools.accumulate(row, max), strict=True)]
            self._seconds[width] = below

    @property
    def widths(self) -> tuple[float, ...]:
        """The measured widths, in ascending order."""
        return tuple(self._seconds)

    def seconds(self, width: float, rows: int) -> float:
        """Expected seconds of a batch of `rows` at a measured width; proportional beyond the largest measured size."""
        sizes, row = self.sizes, self._seconds[width]
        if rows >= sizes[-1]:
            return row[-1] * rows / sizes[-1]
        right = bisect.bisect_right(sizes, rows)
        if right == 0:
            return row[0]
        left = right - 1
        share = (rows - sizes[left]) / (sizes[right] - sizes[left])
        return row[left] + share * (row[right] - row[left])


def batch_sizes(largest: int) -> list[int]:
    """Powers of two up to the largest batch, and the largest batch itself.

    >>> batch_sizes(12)
    [1, 2, 4, 8, 12]
    """
    powers = itertools.takewhile(lambda size: size < largest, (2**power for power in itertools.count()))
    return [*powers, largest]


def measure(
    run: Callable[[float, int], object],
    widths: Sequence[float],
    sizes: Sequence[int],
    *,
    rounds: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> ServiceTimes:
    """Median seconds of every width at every batch size, after one call to warm up.

    All take turns in each round, so that a disturbance of the machine affects them equally.

    Args:
        run: Runs `width` on a batch of `rows`.
        widths: The widths.
        sizes: Rows of the batches.
        rounds: Measured calls of each.
        clock: Returns the time in seconds.

    >>> now = itertools.count()
    >>> measure(lambda width, rows: None, [0.5, 1.0], [1], clock=lambda: next(now)).seconds(1.0, 1)
    1.0
    """
    pairs = [(width, size) for width in widths for size in sizes]
    found: dict[tuple[float, int], list[float]] = {pair: [] for pair in pairs}
    for pair in pairs:
        run(*pair)
    for _ in range(rounds):
        for pair in pairs:
            start = clock()
            run(*pair)
            found[pair].append(float(clock() - start))
    return ServiceTimes({w: {size: statistics.median(found[w, size]) for size in sizes} for w in widths})
