"""Several processes that train one supernet together."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import chain
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anywidth.errors import TrainingError
from anywidth.unsynchronised import note_synchronised

__all__ = [
    "OtherProcessError",
    "anyone",
    "connection_lost",
    "everyone",
    "first_of_machine_first",
    "from_first",
    "rank_and_count",
    "same_start",
    "several_processes",
    "share_of",
    "sync_gradients",
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


def everyone(value: T) -> list[T]:
    """What every process gives for `value`, by rank; alone, that one."""
    if not several_processes():
        return [value]
    values: list[T | None] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def anyone(condition: bool, device: torch.device | str = "cpu") -> bool:
    """Whether a condition holds in some process, by one collective operation; alone, whether it holds.

    Args:
        condition: What this process has found.
        device: Where the processes exchange it: that of the training.

    >>> anyone(True), anyone(False)
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


def from_first(compute: Callable[[], T]) -> T:
    """What process 0 computes, in all processes; for what only one may write, or has to decide for all.

    Raises:
        OtherProcessError: process 0 raised an error, which it goes on raising.

    >>> from_first(lambda: 3)
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
        _raise(problem, elsewhere=any(everyone(problem is not None)))
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


def sync_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients of every process by their mean over all processes, in place.

    Called once after `sandwich_step`, for all of its widths at once, this is one collective operation per step (one per
    data type, to be exact), as much traffic as data-parallel training of the full network alone has. It needs memory
    for one more copy of the gradients meanwhile. All processes have to train the same widths, so that the same
    parameters have gradients; `same_start` sees to it. Alone, it does nothing.

    Args:
        parameters: Those whose gradients are to be shared; those without any are left out.
    """
    if not several_processes():
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    sparse: list[tuple[nn.Parameter, int, Tensor]] = []
    parameters = list(parameters)
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        if gradient.is_sparse:  # processes have seen other rows
            sparse.append((parameter, gradient.sparse_dim(), gradient.to_dense()))
            gradient = sparse[-1][2]
        kinds[gradient.dtype, gradient.device].append(gradient)
    for gradients in kinds.values():
        flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(dist.get_world_size())
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
    for parameter, dims, mean in sparse:
        parameter.grad = mean.to_sparse(dims)
    note_synchronised(parameters)


def same_start(
    module: nn.Module, sampler_state: dict[str, object] | None = None, *, others: Iterable[Tensor] = ()
) -> dict[str, object] | None:
    """Give every process the weights and buffers of process 0, in place, and its state of the width sampler, returned.

    Args:
        module: What is to be trained.
        sampler_state: What `WidthSampler.state_dict()` gives.
        others: Tensors that are trained as well, such as those of `net.switch_state()`.

    Raises:
        TrainingError: the processes do not have the same parameters, because they were started differently.
    """
    if not several_processes():
        return sampler_state
    tensors = [tensor.detach() for tensor in chain(module.parameters(), module.buffers(), others)]
    first, *rest = everyone([tuple(tensor.shape) for tensor in tensors])
    if any(shapes != first for shapes in rest):
        raise TrainingError("the processes train different networks; start them all with the same settings")
    for tensor in tensors:
        whole = tensor.contiguous()  # weights may be laid out with channels last
        dist.broadcast(whole, src=0)
        tensor.copy_(whole)
    state = [sampler_state]
    dist.broadcast_object_list(state, src=0)
    return state[0]
