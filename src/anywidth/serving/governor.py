"""The governor: how wide the network may be for the next batch, so that requests are answered in time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from anywidth.core.errors import WidthError
from anywidth.serving.arrival_rate import ArrivalRate
from anywidth.serving.drift import Drift
from anywidth.serving.governor_settings import GovernorSettings
from anywidth.serving.service_times import ServiceTimes

__all__ = ["Decision", "Governor", "Waiting"]

_log = logging.getLogger(__name__)

Reason = Literal["load", "queue", "late", "asked"]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A request in the queue.

    Attributes:
        arrived: When, in seconds of the governor's clock.
        rows: Samples in it.
        width: The width that it asks for, if it does.
        at_most: The widest width that it takes.
        together: Requests are put into one batch if this is equal.
    """

    arrived: float
    rows: int = 1
    width: float | None = None
    at_most: float | None = None
    together: Hashable = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to run next.

    Attributes:
        time: When it was decided, in seconds.
        width: The width to run.
        members: Places of the requests in the queue, in its order.
        rows: Samples in them.
        expected: Seconds that the batch should take.
        reason: `load`: what arrives lasts for this width. `queue`: what waits needs a narrower one, for this batch.
            `late`: not even the narrowest is in time. `asked`: the request says so.
        waiting: Rows in the queue.
        rate: Rows per second that arrive.
        drift: How much slower the machine is than measured.
    """

    time: float
    width: float
    members: tuple[int, ...]
    rows: int
    expected: float
    reason: Reason
    waiting: int
    rate: float
    drift: float


class Governor:
    """Chooses the width of every batch: the widest with which requests are answered within the target.

    Two rules. By the *load*: the widest width whose capacity lasts for what arrives; it is left for a narrower one at
    once, and for a wider one only after `hold` seconds in which that had room to spare. By the *queue*: if with that
    width some request that waits now would be late, this batch takes the widest with which none is.

    It has no clock and no thread of its own: times are given, so that equal calls make equal decisions. Not to be
    called from two threads at once.

    Args:
        times: What each width takes; see `anywidth.serving.measure`.
        settings: What to aim at.

    Raises:
        WidthError: no measured width is within the bounds.

    >>> times = ServiceTimes({0.25: {1: 0.002}, 1.0: {1: 0.010}})
    >>> governor = Governor(times, GovernorSettings(target=0.040))
    >>> governor.decide(0.0, [Waiting(arrived=0.0)]).width
    1.0
    >>> governor.decide(0.0, [Waiting(arrived=0.0)] * 12).width
    0.25
    """

    def __init__(self, times: ServiceTimes, settings: GovernorSettings) -> None:
        self.times, self.settings = times, settings
        self.widths = tuple(width for width in times.widths if settings.min_width <= width <= settings.max_width)
        if not self.widths:
            known = ", ".join(f"{width:g}" for width in times.widths)
            raise WidthError(
                f"none of the widths {known} is within [{settings.min_width:g}, {settings.max_width:g}]; "
                "widen the bounds"
            )
        self.decisions: deque[Decision] = deque(maxlen=1000)
        """The last ones, oldest first."""
        self.drift = Drift(settings.adapt)
        self.steady = self.widths[-1]
        """The width by the load alone."""
        self._rate = ArrivalRate(memory=settings.memory)
        self._roomy_since: float | None = None
        self._roomy = self.steady
        self._last = float("-inf")
        if self.times.seconds(self.widths[0], 1) > self._limit:
            _log.warning(
                "width %g alone takes %.3g ms, which leaves no time within the target of %.3g ms",
                self.widths[0], 1e3 * self.times.seconds(self.widths[0], 1), 1e3 * settings.target,
            )  # fmt: skip

    def arrived(self, now: float, rows: int = 1) -> None:
        """Take in that a request arrived, whether it was accepted or not."""
        self._rate.add(now, rows)

    def finished(self, decision: Decision, seconds: float) -> None:
        """Take in how long the batch of a decision took."""
        self.drift.observe(expected=self.times.seconds(decision.width, decision.rows), measured=seconds)

    def seconds(self, width: float, rows: int) -> float:
        """What a batch should take now, with drift and spread."""
        return self.times.seconds(width, rows) * self.drift.cautious

    def rate(self, now: float) -> float:
        """Rows per second that arrive."""
        return self._rate.at(now)

    def wait(self, rows: int, width: float | None = None) -> float:
        """Seconds until this many waiting rows are answered, with a width that they ask for or else the narrowest."""
        width = self.widths[0] if width is None else width
        size = self.batch(width)
        whole, rest = divmod(rows, size)
        return whole * self.seconds(width, size) + (self.seconds(width, rest) if rest else 0.0)

    def hopeless(self, now: float, waiting: Waiting) -> bool:
        """Whether a request is late even if it is run at once, at the narrowest width or the one that it asks for."""
        width = self.widths[0] if waiting.width is None else waiting.width
        return now - waiting.arrived + self.seconds(width, waiting.rows) > self.settings.target

    def batch(self, width: float) -> int:
        """The most rows in a batch: whoever arrives while it runs can still be answered in time by the narrowest."""
        low, high = 1, self.settings.max_rows
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.seconds(width, middle) + self.seconds(self.widths[0], middle) <= self._limit
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def capacity(self, width: float) -> float:
        """Rows per second that a width can answer in batches of a size that the target allows."""
        largest = self.batch(width)
        sizes = [size for size in self.times.sizes if size <= largest]
        quickest = max(size / self.times.seconds(width, size) for size in {1, *sizes, largest})
        return quickest / self.drift.ratio  # what lasts is decided by the mean, not by the spread

    def decide(self, now: float, queue: Sequence[Waiting]) -> Decision:
        """What to run next.

        Args:
            now: Seconds.
            queue: Who waits, the first to come first; one at least.
        """
        head = queue[0]
        self._follow_load(now)
        reason: Reason = "load"
        width = self.steady
        if not self._in_time(now, queue, width):
            fitting = self._widest(lambda w: self._in_time(now, queue, w), below=width)
            width, reason = (self.widths[0], "late") if fitting is None else (fitting, "queue")
        if head.width is not None:
            width, reason = head.width, "asked"
        elif head.at_most is not None and head.at_most < width:
            width, reason = head.at_most, "asked"
        members, rows = self._members(queue, self.batch(width))
        decision = Decision(
            time=now,
            width=width,
            members=members,
            rows=rows,
            expected=self.seconds(width, rows),
            reason=reason,
            waiting=sum(waiting.rows for waiting in queue),
            rate=self.rate(now),
            drift=self.drift.ratio,
        )
        self._last = now
        self._note(decision)
        return decision

    @property
    def _limit(self) -> float:
        return self.settings.target * (1 - self.settings.margin)

    def _follow_load(self, now: float) -> None:
        """Set the width by the load."""
        settings, rate = self.settings, self.rate(now)
        lasting = self._widest(lambda w: rate <= settings.load * self.capacity(w)) or self.widths[0]
        if lasting < self.steady:
            self._change(lasting, rate)
            return
        spared = settings.load * (1 - settings.hysteresis)
        roomy = self._widest(lambda w: rate <= spared * self.capacity(w)) or self.widths[0]
        if roomy <= self.steady:
            self._roomy_since = None
            return
        if self._roomy_since is None:
            # While nothing came, there was room.
            idle = now - self._last >= settings.hold
            self._roomy_since, self._roomy = (self._last if idle else now), roomy
        self._roomy = min(self._roomy, roomy)
        if now - self._roomy_since >= settings.hold:
            self._change(self._roomy, rate)

    def _change(self, width: float, rate: float) -> None:
        _log.info("width by load %g -> %g: %.4g rows/s arrive, drift %.2f", self.steady, width, rate, self.drift.ratio)
        self.steady, self._roomy_since = width, None

    def _widest(self, holds: Callable[[float], bool], below: float | None = None) -> float | None:
        """The widest width for which something holds that holds for all narrower ones too."""
        low, high = 0, len(self.widths) if below is None else self.widths.index(below)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if holds(self.widths[middle]) else (low, middle)
        return self.widths[low - 1] if low else None

    def _in_time(self, now: float, queue: Sequence[Waiting], width: float) -> bool:
        """Whether all that wait are answered in time if all that ask for no width take this one."""
        limit, done, first = self._limit, 0.0, 0
        sizes: dict[float, int] = {}
        while first < len(queue):
            asked = queue[first].width
            used = width if asked is None else asked
            if used not in sizes:
                sizes[used] = self.batch(used)
            last, rows = first + 1, queue[first].rows
            while last < len(queue) and queue[last].width == asked and rows + queue[last].rows <= sizes[used]:
                rows += queue[last].rows
                last += 1
            done += self.seconds(used, rows)
            if now - queue[first].arrived + done > limit:
                return False
            first = last
        return True

    @staticmethod
    def _members(queue: Sequence[Waiting], size: int) -> tuple[tuple[int, ...], int]:
        """The first request and those that can go with it, in order, up to a number of rows."""
        head = queue[0]
        members, rows = [0], head.rows
        for place, waiting in enumerate(queue[1:], start=1):
            alike = (waiting.width, waiting.at_most, waiting.together) == (head.width, head.at_most, head.together)
            if alike:
                if rows + waiting.rows > size:
                    break
                members.append(place)
                rows += waiting.rows
        return tuple(members), rows

    def _note(self, decision: Decision) -> None:
        self.decisions.append(decision)
        _log.debug(
            "width %g (%s): %d of %d rows, %.3g ms expected",
            decision.width, decision.reason, decision.rows, decision.waiting, 1e3 * decision.expected,
        )  # fmt: skip
