"""A network with its governor and its queue, used by the endpoints of a server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from anywidth.serving.batcher import Answer, Batcher
from anywidth.serving.governor import Governor
from anywidth.serving.limits import Limits
from anywidth.serving.metrics import Metrics
from anywidth.serving.refusal import Refusal
from anywidth.serving.served import Served

__all__ = ["Service"]


class Service:
    """Answers requests of an event loop.

    Args:
        served: The network.
        governor: Chooses among its widths.
        limits: Limits of requests.
    """

    def __init__(self, served: Served, governor: Governor, limits: Limits | None = None) -> None:
        self.served, self.governor, self.limits = served, governor, limits or Limits()
        self.answered = 0
        self.metrics = Metrics()
        self.batcher = Batcher(served.ladder, governor, queue=self.limits.queue, on_batch=self.metrics.batch)
        self.metrics.queue.set_function(lambda: self.batcher.waiting)

    async def answer(
        self, inputs: Sequence[npt.NDArray[Any]], *, width: float | None = None, budget: str | None = None
    ) -> Answer:
        """The answer to one request.

        Args:
            inputs: Arrays in the network's order.
            width: The requested width, if any.
            budget: The requested budget, if any.

        Raises:
            Refusal: the width or budget is not offered (status 400), or there is no room or time for the request (503).
        """
        start = time.monotonic()
        if width is not None and budget is not None:
            raise Refusal(400, "give a width or a budget, not both")
        asked = None if width is None else self.served.exact(width, self.governor)
        at_most = None if budget is None else self.served.within(budget, self.governor, int(inputs[0].shape[0]))
        future = asyncio.wrap_future(self.batcher.submit(inputs, width=asked, at_most=at_most))
        try:
            answer = await asyncio.wait_for(future, self.limits.answer)
        except TimeoutError:
            raise Refusal(503, f"no answer within {self.limits.answer:g} s", reason="timeout", retry_after=1) from None
        self.answered += 1
        self.metrics.latency.labels(f"{answer.width:g}").observe(time.monotonic() - start)
        return answer

    def cost(self, answer: Answer) -> dict[str, Any]:
        """The width, cost and times to report in an answer."""
        point = self.served.point(answer.width)
        return {
            "width": point.width,
            "macs": point.macs,
            "params": point.params,
            "accuracy": None if point.accuracy is None else round(point.accuracy, 4),
            "queue_ms": round(1e3 * answer.waited, 3),
            "compute_ms": round(1e3 * answer.ran, 3),
            "batch": answer.batch,
        }
