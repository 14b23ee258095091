"""The governor: chooses the width of the next batch so that requests are answered in time."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from anywidth.core.errors import WidthError
from anywidth.serving.arrival_rate import ArrivalRate
from anywidth.serving.drift import Drift
from anywidth.serving.governor_settings import GovernorSettings
from anywidth.serving.queue_records import Decision, Reason, Waiting
from anywidth.serving.service_times import ServiceTimes

__all__ = ["Governor"]

_log = logging.getLogger(__name__)


class Governor:
    """Chooses the width of every batch: the widest at which requests are answered within the target.

    It applies two rules. *Load*: choose the widest width whose capacity covers the arrival rate. It changes to a
    narrower width at once, and to a wider one only after that width has had capacity to spare for `hold` seconds.
    *Queue*: if a waiting request would be late at that width, run this batch at the widest width at which none is late.

    The governor has no clock and no thread: times are arguments, so equal calls lead to equal decisions. Do not call it
    from two threads at once.

    Args:
        times: Expected time of each width; see `anywidth.serving.measure`.
        settings: The target and the limits.

    Raises:
        WidthError: no measured width is between `min_width` and `max_width`.

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
        """The latest decisions, oldest first."""
        self.drift = Drift(settings.adapt)
        self.steady = self.widths[-1]
        """The width according to the load rule."""
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
        """Record the arrival of a request, accepted or not."""
        self._rate.add(now, rows)

    def finished(self, decision: Decision, seconds: float) -> None:
        """Record the seconds that the batch of a decision took."""
        self.drift.observe(expected=self.times.seconds(decision.width, decision.rows), measured=seconds)

    def seconds(self, width: float, rows: int) -> float:
        """Expected seconds of a batch, including drift and spread."""
        return self.times.seconds(width, rows) * self.drift.cautious

    def rate(self, now: float) -> float:
        """Rows per second that arrive."""
        return self._rate.at(now)

    def wait(self, rows: int, width: float | None = None) -> float:
        """Seconds until this many waiting rows are answered, at the requested width or else the narrowest."""
        width = self.widths[0] if width is None else width
        size = self.batch(width)
        whole, rest = divmod(rows, size)
        return whole * self.seconds(width, size) + (self.seconds(width, rest) if rest else 0.0)

    def hopeless(self, now: float, waiting: Waiting) -> bool:
        """Whether a request is late even if it runs now, at the requested width or else the narrowest."""
        width = self.widths[0] if waiting.width is None else waiting.width
        return now - waiting.arrived + self.seconds(width, waiting.rows) > self.settings.target

    def batch(self, width: float) -> int:
        """The most rows in a batch, so that the narrowest width can answer requests arriving meanwhile in time."""
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
        return quickest / self.drift.ratio  # sustained capacity depends on the mean, not on the spread

    def decide(self, now: float, queue: Sequence[Waiting]) -> Decision:
        """The next batch to run.

        Args:
            now: Seconds.
            queue: The waiting requests in order of arrival, at least one.
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

    def goes_on(
        self, now: float, decision: Decision, reached: float, members: Sequence[Waiting], queue: Sequence[Waiting]
    ) -> bool:
        """Whether to refine a batch to its next width: if all in it, and all that wait, can still be in time.

        Args:
            now: Seconds.
            decision: Of the batch; its width is the widest to refine to.
            reached: The width that has answered, which is narrower.
            members: The requests in the batch.
            queue: Who waits by now.
        """
        if reached < self.widths[0] or members[0].width is not None:
            return True
        wider = self.times.widths[self.times.widths.index(reached) + 1]
        done = now + self.seconds(wider, decision.rows) - self.seconds(reached, decision.rows)
        if done - min(member.arrived for member in members) > self._limit:
            return False
        return self._in_time(done, [waiting for waiting in queue if not self.hopeless(now, waiting)], self.widths[0])

    def cut(self, decision: Decision, reached: float) -> Decision:
        """The decision for a batch whose refinement ended at a narrower width; it stands in place of the first one."""
        seconds = self.seconds(reached, decision.rows)
        shorter = replace(decision, width=reached, expected=seconds, reason="deadline")
        _log.debug("refinement ends at width %g of %g", reached, decision.width)
        if self.decisions and self.decisions[-1] is decision:
            self.decisions[-1] = shorter
        return shorter

    @property
    def _limit(self) -> float:
        return self.settings.target * (1 - self.settings.margin)

    def _follow_load(self, now: float) -> None:
        """Update the width of the load rule."""
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
            # Without arrivals, there was capacity to spare.
            idle = now - self._last >= settings.hold
            self._roomy_since, self._roomy = (self._last if idle else now), roomy
        self._roomy = min(self._roomy, roomy)
        if now - self._roomy_since >= settings.hold:
            self._change(self._roomy, rate)

    def _change(self, width: float, rate: float) -> None:
        _log.info("width by load %g -> %g: %.4g rows/s arrive, drift %.2f", self.steady, width, rate, self.drift.ratio)
        self.steady, self._roomy_since = width, None

    def _widest(self, holds: Callable[[float], bool], below: float | None = None) -> float | None:
        """The widest width that meets a condition, which all narrower widths then meet too."""
        low, high = 0, len(self.widths) if below is None else self.widths.index(below)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if holds(self.widths[middle]) else (low, middle)
        return self.widths[low - 1] if low else None

    def _in_time(self, now: float, queue: Sequence[Waiting], width: float) -> bool:
        """Whether all waiting requests are in time if those without a requested width run at this one."""
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
        """The first request and those that can share its batch, in order, up to a number of rows."""
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
