"""Dynamic batching: one thread runs the network on the waiting requests, at the width that the governor chooses."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from anywidth.serving.governor import Governor
from anywidth.serving.ladder import Ladder
from anywidth.serving.out_of_memory import is_out_of_memory
from anywidth.serving.queue_records import Decision, Waiting
from anywidth.serving.refusal import Refusal

__all__ = ["Answer", "Batcher"]

_log = logging.getLogger(__name__)

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The result of one request.

    Attributes:
        outputs: In the order of `Ladder.outputs`, with the request's rows.
        width: The width that computed them; with refinement, the widest one reached in time.
        waited: Seconds in the queue.
        ran: Seconds in which the batch ran.
        batch: Rows of the batch.
    """

    outputs: list[Array]
    width: float
    waited: float
    ran: float
    batch: int


@dataclass(frozen=True, eq=False)
class _Item:
    inputs: Sequence[Array]
    waiting: Waiting
    future: Future[Answer]


class Batcher:
    """A bounded queue in front of a ladder, and one thread that processes it.

    No timer waits for a batch to fill: requests that arrive while a batch runs form the next one. A request that is
    already late is still answered, unless other waiting requests can still be in time. Then it is refused.

    Args:
        ladder: The widths.
        governor: Chooses among the widths; only this batcher may use it.
        queue: Maximum number of waiting requests.
        clock: Returns the time in seconds.
        on_batch: Called after every batch with the decision and the seconds that the batch took.

    >>> import torch
    >>> from torch import nn
    >>> from anywidth.serving.governor_settings import GovernorSettings
    >>> from anywidth.serving.service_times import ServiceTimes
    >>> from anywidth.supernet import Supernet
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))
    >>> times = ServiceTimes({0.25: {1: 0.001}, 1.0: {1: 0.002}})
    >>> batcher = Batcher(Ladder.share(net, [0.25, 1.0]), Governor(times, GovernorSettings(target=1.0)))
    >>> answer = batcher.submit([np.zeros((3, 4), np.float32)]).result()
    >>> answer.width, answer.outputs[0].shape, batcher.drain()
    (1.0, (3, 2), True)
    """

    def __init__(
        self,
        ladder: Ladder,
        governor: Governor,
        *,
        queue: int = 256,
        clock: Callable[[], float] = time.monotonic,
        on_batch: Callable[[Decision, float], None] = lambda decision, seconds: None,
    ) -> None:
        self.ladder, self.governor, self.bound = ladder, governor, queue
        self._clock, self._on_batch = clock, on_batch
        self._queue: list[_Item] = []
        self._ready = threading.Condition()
        self._closed = False
        self._until = -math.inf  # when the running batch is expected to end
        self._thread = threading.Thread(target=self._work, name="anywidth-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._queue)

    @property
    def open(self) -> bool:
        """Whether requests are accepted and processed."""
        return not self._closed and self._thread.is_alive()

    def submit(
        self, inputs: Sequence[Array], *, width: float | None = None, at_most: float | None = None
    ) -> Future[Answer]:
        """Put a request into the queue and return its future.

        Args:
            inputs: In the order of `Ladder.inputs`; the first dimension of each is the rows.
            width: The width to run; by default the governor chooses.
            at_most: The widest width that the governor may choose.

        Raises:
            Refusal: the queue is full or closed, or so long that the answer would be late (status 503).
        """
        rows = int(inputs[0].shape[0])
        with self._ready:
            now = self._clock()
            self.governor.arrived(now, rows)
            self._check(now, rows, width)
            waiting = Waiting(
                arrived=now,
                rows=rows,
                width=width,
                at_most=at_most,
                together=tuple(array.shape[1:] for array in inputs),
            )
            item = _Item(inputs, waiting, Future())
            self._queue.append(item)
            self._ready.notify()
        return item.future

    def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests, answer waiting ones and end the thread; whether it ended within `timeout` seconds."""
        with self._ready:
            self._closed = True
            self._ready.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _check(self, now: float, rows: int, width: float | None) -> None:
        if self._closed:
            raise Refusal(503, "the server is shutting down", reason="closed", retry_after=1)
        if not self._queue:
            return
        ahead = Counter({width: rows})
        for item in self._queue:
            ahead[item.waiting.width] += item.waiting.rows
        work = sum(self.governor.wait(count, asked) for asked, count in ahead.items())
        wait = max(0.0, self._until - now) + work
        if len(self._queue) >= self.bound:
            raise Refusal(503, f"{self.bound} requests are already waiting", reason="full", retry_after=wait)
        target = self.governor.settings.target
        if wait > target:
            raise Refusal(
                503,
                f"an answer would take {1e3 * wait:.0f} ms, above the target of {1e3 * target:.0f} ms",
                reason="overload",
                retry_after=wait,
            )

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            decision, items = taken
            try:
                self._run(decision, items)
            except BaseException as error:  # every accepted request gets an answer
                _log.exception("a batch failed")
                for item in items:
                    if not item.future.done():
                        item.future.set_exception(error)

    def _take(self) -> tuple[Decision, list[_Item]] | None:
        with self._ready:
            while True:
                self._queue = [item for item in self._queue if not item.future.cancelled()]
                if self._queue:
                    break
                if self._closed:
                    return None
                self._ready.wait()
            now = self._clock()
            self._give_up(now)
            decision = self.governor.decide(now, [item.waiting for item in self._queue])
            members = set(decision.members)
            items = [self._queue[place] for place in decision.members]
            self._queue = [item for place, item in enumerate(self._queue) if place not in members]
            self._until = now + decision.expected
        return decision, [item for item in items if item.future.set_running_or_notify_cancel()]

    def _give_up(self, now: float) -> None:
        """Refuse requests that are already late, so that one delay does not make all later requests late."""
        late = {item for item in self._queue if self.governor.hopeless(now, item.waiting)}
        if len(late) == len(self._queue):
            return
        self._queue = [item for item in self._queue if item not in late]
        for item in late:
            if item.future.set_running_or_notify_cancel():
                waited = 1e3 * (now - item.waiting.arrived)
                message = f"not answered within the target latency; it waited {waited:.0f} ms"
                item.future.set_exception(Refusal(503, message, reason="late", retry_after=self.governor.wait(1)))

    def _run(self, decision: Decision, items: list[_Item]) -> None:
        if not items:
            return
        start = self._clock()
        results = self._outputs(items, decision)
        seconds = self._clock() - start
        rows = sum(item.waiting.rows for item in items)
        reached = min((width for width, _ in results), default=decision.width)
        if reached < decision.width:
            decision = self.governor.cut(decision, reached)
        if rows == decision.rows:
            with self._ready:
                self.governor.finished(decision, seconds)
        self._on_batch(decision, seconds)
        for item, (width, result) in zip(items, results, strict=True):
            if isinstance(result, Exception):
                item.future.set_exception(result)
            else:
                waited = start - item.waiting.arrived
                answer = Answer(outputs=result, width=width, waited=waited, ran=seconds, batch=rows)
                item.future.set_result(answer)

    def _outputs(self, items: Sequence[_Item], decision: Decision) -> list[tuple[float, list[Array] | Exception]]:
        """The width and outputs of every request; if the network rejects the batch, each request runs alone."""
        width = decision.width
        try:
            joined = [np.concatenate(arrays) for arrays in zip(*(item.inputs for item in items), strict=True)]
            width, outputs = self._computed(joined, items, decision)
        except Exception as error:
            if len(items) > 1:
                return [self._outputs([item], decision)[0] for item in items]
            _log.warning("width %g failed on shapes %s: %s", width, [array.shape for array in items[0].inputs], error)
            if is_out_of_memory(error):
                message = "out of memory; try again, or send fewer rows"
                return [(width, Refusal(503, message, reason="memory", retry_after=1))]
            return [(width, Refusal(400, f"the network does not accept this input: {error}", reason="model"))]
        cuts = np.cumsum([item.waiting.rows for item in items])[:-1]
        return [(width, list(parts)) for parts in zip(*(np.split(output, cuts) for output in outputs), strict=True)]

    def _computed(
        self, inputs: Sequence[Array], items: Sequence[_Item], decision: Decision
    ) -> tuple[float, list[Array]]:
        """The outputs at the width of the decision, or at the one that refinement reached in time."""
        refinement = self.ladder.refinement
        if refinement is None:
            return decision.width, self.ladder.run(inputs, width=decision.width)
        members = [item.waiting for item in items]
        with closing(refinement(inputs)) as answers:
            for width, outputs in answers:
                with self._ready:
                    queue = [item.waiting for item in self._queue]
                    now = self._clock()
                if width >= decision.width or not self.governor.goes_on(now, decision, width, members, queue):
                    return width, outputs
        raise AssertionError("the decision is for one of the widths")
