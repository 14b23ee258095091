"""Several processes that train one supernet together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anywidth.errors import TrainingError

__all__ = ["everyone", "same_start", "several_processes", "sync_gradients"]

T = TypeVar("T")


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
    for parameter in parameters:
        if parameter.grad is not None:
            kinds[parameter.grad.dtype, parameter.grad.device].append(parameter.grad)
    for gradients in kinds.values():
        flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(dist.get_world_size())
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def same_start(module: nn.Module, sampler_state: dict[str, object] | None = None) -> dict[str, object] | None:
    """Give every process the weights and buffers of process 0, in place, and its state of the width sampler, returned.

    Args:
        module: What is to be trained.
        sampler_state: What `WidthSampler.state_dict()` gives.

    Raises:
        TrainingError: the processes do not have the same parameters, because they were started differently.
    """
    if not several_processes():
        return sampler_state
    tensors = [tensor.detach() for tensor in chain(module.parameters(), module.buffers())]
    first, *others = everyone([tuple(tensor.shape) for tensor in tensors])
    if any(shapes != first for shapes in others):
        raise TrainingError("the processes train different networks; start them all with the same settings")
    for tensor in tensors:
        whole = tensor.contiguous()  # weights may be laid out with channels last
        dist.broadcast(whole, src=0)
        tensor.copy_(whole)
    state = [sampler_state]
    dist.broadcast_object_list(state, src=0)
    return state[0]
