"""Subnets bound to a supernet: ordinary modules whose parameters are slices of the supernet's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from anywidth.groups.analysis import Analysis, KeptIndices
from anywidth.groups.narrow import is_leading, narrow, take
from anywidth.supernet.dense_copies import DenseCopies, synced
from anywidth.supernet.gradient_router import GradientRouter
from anywidth.supernet.record import SubnetRecord, record_of
from anywidth.supernet.shared_memory import SharedWeights
from anywidth.supernet.subnet_parameter import subnet_parameter
from anywidth.supernet.zero_grad import refuse_zero_grad
from anywidth.widths import WidthConfig

__all__ = ["OwnTensor", "bind_subnet", "contiguous", "gradients_together"]

OwnTensor = Callable[[str, Tensor, Sequence[KeptIndices]], Tensor | None]
"""Returns the tensor that a subnet uses instead of a slice of the supernet's tensor, or None for the slice."""


@contextmanager
def gradients_together(subnet: nn.Module) -> Iterator[None]:
    """Context manager in which a subnet keeps its gradients; at its end, all are added to the supernet's at once.

    One kernel then handles many tensors, because a backward pass of a small network on a GPU waits for launches.
    Modules that are not subnets are left alone.
    """
    record = record_of(subnet)
    with nullcontext() if record is None else record.router.held():
        yield


def bind_subnet(model: nn.Module, analysis: Analysis, config: WidthConfig, own_tensor: OwnTensor) -> nn.Module:
    """A new subnet of `model` at a width, with its record, which shares weights and gradients.

    `own_tensor(name, tensor, kept)` may return a parameter or buffer to use instead of a slice.
    """
    copies, router, shared = DenseCopies(), GradientRouter(), SharedWeights()

    def bind(name: str, tensor: Tensor, kept: Sequence[KeptIndices]) -> Tensor:
        own = own_tensor(name, tensor, kept)
        if own is not None:
            return own
        if not isinstance(tensor, nn.Parameter):
            part = take(tensor, kept) if is_leading(kept) else copies.of(tensor, kept)
            if not is_leading(kept):
                copies.stand_for(part)
            return part
        part = take(tensor.detach(), kept) if is_leading(kept) else copies.of(tensor, kept)
        leaf = subnet_parameter(part, tensor)
        if not is_leading(kept):
            copies.stand_for(leaf)
        shared.add(leaf, tensor)
        if leaf.requires_grad:
            router.add(leaf, tensor, kept)
        return leaf

    subnet = narrow(model, analysis, analysis.blocks(config), bind, share=True)
    if copies:
        copies.belong_to(subnet)
    refuse_zero_grad(subnet)
    SubnetRecord(subnet, config, router=router, shared=shared, copies=copies or None)
    return subnet


@contextmanager
def contiguous(
    subnet: nn.Module, *, cast: Sequence[nn.Parameter] = (), dtype: torch.dtype = torch.float32
) -> Iterator[None]:
    """Context manager in which a subnet's weights are dense copies; the supernet's weights must not change in it.

    Kernels copy strided weights at every call; this copies them once for many calls, or for a forward and its backward.
    Weights in `cast` are copied to `dtype`, whether strided or not.
    """
    record = record_of(subnet)
    # Another thread would take these copies for the weights.
    with (
        nullcontext() if record is None else record.router.lock,
        nullcontext() if record is None else record.shared.elsewhere(),
        synced(subnet),
    ):
        lower = set(map(id, cast))
        views = [(leaf, leaf.data) for leaf in subnet.parameters() if id(leaf) in lower or not _is_dense(leaf)]
        try:
            for leaf, view in views:
                leaf.data = view.to(dtype) if id(leaf) in lower else view.clone()
            yield
        finally:
            for leaf, view in views:
                leaf.data = view


def _is_dense(tensor: Tensor) -> bool:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.is_contiguous() or (
        tensor.ndim in formats and tensor.is_contiguous(memory_format=formats[tensor.ndim])
    )
