"""Requests in the queue, and decisions on the next batch."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Decision", "Reason", "Waiting"]


Reason = Literal["load", "queue", "late", "asked", "deadline"]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A request in the queue.

    Attributes:
        arrived: Time of arrival, in seconds of the governor's clock.
        rows: Number of samples in it.
        width: The width that it requests, if any.
        at_most: The widest width that it accepts.
        together: Requests can share a batch if this is equal.
    """

    arrived: float
    rows: int = 1
    width: float | None = None
    at_most: float | None = None
    together: Hashable = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The next batch.

    Attributes:
        time: Time of the decision, in seconds.
        width: The width to run.
        members: Positions of its requests in the queue, in ascending order.
        rows: Number of samples in them.
        expected: Seconds that the batch is expected to take.
        reason: `load`: this width can handle the arrival rate. `queue`: waiting requests need a narrower width for this
            batch. `late`: even the narrowest width is late. `asked`: the request asks for this width. `deadline`:
            refinement ended at this width.
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
