"""Collective operations of processes that train together; a single process returns immediately."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from anywidth.core.errors import TrainingError

__all__ = [
    "OtherProcessError",
    "all_gather",
    "any_rank",
    "broadcast",
    "connection_lost",
    "first_of_machine_first",
    "rank_and_count",
    "several_processes",
    "share_of",
]

T = TypeVar("T")

if dist.is_available():
    # This module's functions capture the process group at import as their default. torch.compile and the optimizers
    # import it. If that happens after init_process_group, the group's threads outlive Python and abort the process.
    import torch.distributed.nn.functional


class OtherProcessError(TrainingError):
    """Another process failed and reports the reason."""


def several_processes() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_gather(value: T) -> list[T]:
    """Values of all processes, ordered by rank."""
    if not several_processes():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def any_rank(condition: bool, device: torch.device | str = "cpu") -> bool:
    """Whether a condition holds in at least one process. Runs one collective operation.

    Args:
        condition: The condition in this process.
        device: Device for the exchange: the training device.

    >>> any_rank(True), any_rank(False)
    (True, False)
    """
    if not several_processes():
        return condition
    found = torch.tensor(float(condition), device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found)


def rank_and_count() -> tuple[int, int]:
    """Rank of this process and number of processes.

    >>> rank_and_count()
    (0, 1)
    """
    return (dist.get_rank(), dist.get_world_size()) if several_processes() else (0, 1)


def share_of(images: int | None) -> int | None:
    """Number of images per process that add up to at least `images`; None stays None.

    >>> share_of(1000), share_of(None)
    (1000, None)
    """
    return None if images is None else -(-images // rank_and_count()[1])


def broadcast(compute: Callable[[], T]) -> T:
    """Result of `compute` in process 0, sent to all; for files that one process writes, and for shared decisions.

    Raises:
        OtherProcessError: `compute` failed in process 0, which raises the original error.

    >>> broadcast(lambda: 3)
    3
    """
    if not several_processes():
        return compute()
    value, problem = _attempt(compute) if dist.get_rank() == 0 else (None, None)
    shared = [(value, problem is not None)]
    dist.broadcast_object_list(shared, src=0)
    _raise(problem, elsewhere=shared[0][1])
    return shared[0][0]  # type: ignore[return-value]


def first_of_machine_first(compute: Callable[[], T]) -> T:
    """Result of `compute`, run first in one process per machine, so that the others find its downloads.

    Raises:
        OtherProcessError: `compute` failed in another process, which raises the original error.

    >>> first_of_machine_first(lambda: 3)
    3
    """
    if not several_processes():
        return compute()
    first = int(os.environ.get("LOCAL_RANK", dist.get_rank())) == 0
    value: T | None = None
    for turn in (True, False):
        problem: Exception | None = None
        if first == turn:
            value, problem = _attempt(compute)
        _raise(problem, elsewhere=any(all_gather(problem is not None)))
    return value  # type: ignore[return-value]


def _attempt(compute: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return compute(), None
    except Exception as problem:  # the other processes wait for the result
        return None, problem


def _raise(problem: Exception | None, *, elsewhere: bool) -> None:
    if problem is not None:
        raise problem
    if elsewhere:
        raise OtherProcessError("another process failed")


def connection_lost(error: BaseException) -> bool:
    """Whether an error means that another process has exited.

    >>> connection_lost(RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:9"))
    True
    """
    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or any(s in str(error) for s in lost))
