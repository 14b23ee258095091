"""Weights and gradients that stay equal in several processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anywidth.core.errors import TrainingError
from anywidth.core.processes import all_gather, several_processes
from anywidth.core.unsynchronised import note_synchronised

__all__ = ["same_start", "sync_gradients"]


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
    first, *rest = all_gather([tuple(tensor.shape) for tensor in tensors])
    if any(shapes != first for shapes in rest):
        raise TrainingError("the processes train different networks; start them all with the same settings")
    for tensor in tensors:
        whole = tensor.contiguous()  # weights may be laid out with channels last
        dist.broadcast(whole, src=0)
        tensor.copy_(whole)
    state = [sampler_state]
    dist.broadcast_object_list(state, src=0)
    return state[0]
