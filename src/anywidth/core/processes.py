"""Several processes that train one supernet together."""

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
    # Its functions keep the process group that exists when it is first imported, as their default. torch.compile and
    # the optimizers import it; after init_process_group, that group's threads outlive Python and abort the process.
    import torch.distributed.nn.functional


class OtherProcessError(TrainingError):
    """Another process cannot go on; it says why."""


def several_processes() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_gather(value: T) -> list[T]:
    """What every process gives for `value`, by rank; alone, that one."""
    if not several_processes():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def any_rank(condition: bool, device: torch.device | str = "cpu") -> bool:
    """Whether a condition holds in some process, by one collective operation; alone, whether it holds.

    Args:
        condition: What this process has found.
        device: Where the processes exchange it: that of the training.

    >>> any_rank(True), any_rank(False)
    (True, False)
    """
    if not several_processes():
        return condition
    found = torch.tensor(float(condition), device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return bool(found)


def rank_and_count() -> tuple[int, int]:
    """The number of this process, from 0, and how many train together.

    >>> rank_and_count()
    (0, 1)
    """
    return (dist.get_rank(), dist.get_world_size()) if several_processes() else (0, 1)


def share_of(images: int | None) -> int | None:
    """How many images each process takes of a number that all take together, rounded up.

    >>> share_of(1000), share_of(None)
    (1000, None)
    """
    return None if images is None else -(-images // rank_and_count()[1])


def broadcast(compute: Callable[[], T]) -> T:
    """What process 0 computes, in all processes; for what only one may write, or has to decide for all.

    Raises:
        OtherProcessError: process 0 raised an error, which it goes on raising.

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
    """What every process computes, the first of each machine before the others, who find what it has downloaded.

    Raises:
        OtherProcessError: another process raised an error, which it goes on raising.

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
    except Exception as problem:  # whatever it is, the other processes wait to be told
        return None, problem


def _raise(problem: Exception | None, *, elsewhere: bool) -> None:
    if problem is not None:
        raise problem
    if elsewhere:
        raise OtherProcessError("another process cannot go on")


def connection_lost(error: BaseException) -> bool:
    """Whether an error says that another process has ended.

    >>> connection_lost(RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:9"))
    True
    """
    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or any(s in str(error) for s in lost))
