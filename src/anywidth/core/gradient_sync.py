"""Synchronization of weights and gradients across processes."""

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

    Call it once after `sandwich_step`. It runs one collective operation per step and dtype for all widths together. The
    traffic equals data-parallel training of the full network; memory grows by one copy of the gradients. All processes
    must train the same widths, so that the same parameters have gradients; `same_start` ensures this. With a single
    process it does nothing.

    Args:
        parameters: Parameters to synchronize; those without a gradient are skipped.
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
        if gradient.is_sparse:  # the rows differ between processes
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
    """Copy the weights and buffers of process 0 to every process, in place, and return its sampler state.

    Args:
        module: The network to train.
        sampler_state: `WidthSampler.state_dict()` of this process.
        others: Further tensors to copy, such as those of `net.switch_state()`.

    Raises:
        TrainingError: parameter shapes differ, because the processes were started with different settings.
    """
    if not several_processes():
        return sampler_state
    tensors = [tensor.detach() for tensor in chain(module.parameters(), module.buffers(), others)]
    first, *rest = all_gather([tuple(tensor.shape) for tensor in tensors])
    if any(shapes != first for shapes in rest):
        raise TrainingError("the processes train different networks; start them all with the same settings")
    for tensor in tensors:
        whole = tensor.contiguous()  # weights may use the channels-last memory format
        dist.broadcast(whole, src=0)
        tensor.copy_(whole)
    state = [sampler_state]
    dist.broadcast_object_list(state, src=0)
    return state[0]
