"""Subnets bound to a supernet: ordinary modules whose parameters are slices of the supernet's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.groups.analysis import Analysis, Kept
from anywidth.groups.narrow import is_leading, narrow, take
from anywidth.supernet.dense_copies import DenseCopies, SubnetHook, synced
from anywidth.supernet.gradient_router import GradientRouter

__all__ = ["OwnTensor", "bind_subnet", "contiguous", "gradients_together", "leading_leaves"]

OwnTensor = Callable[[str, Tensor, Sequence[Kept]], Tensor | None]
"""The tensor that a subnet has instead of a slice of the supernet's tensor of this name, or None for the slice."""


_routers: WeakKeyDictionary[nn.Module, GradientRouter] = WeakKeyDictionary()


def leading_leaves(subnet: nn.Module) -> list[nn.Parameter]:
    """The parameters of a subnet that are leading blocks of the supernet's."""
    router = _routers.get(subnet)
    return [] if router is None else router.leading


@contextmanager
def gradients_together(subnet: nn.Module) -> Iterator[None]:
    """Context manager in which a subnet keeps its gradients; at its end all of them move into the supernet's together.

    Kernels then run for many tensors together: a backward pass of a small network on a GPU waits for launches. Modules
    that are not subnets are left alone.
    """
    router = _routers.get(subnet)
    with nullcontext() if router is None else router.held():
        yield


def bind_subnet(
    model: nn.Module,
    analysis: Analysis,
    units: npt.NDArray[Any],
    own_tensor: OwnTensor,
) -> nn.Module:
    """The subnet of `model` that keeps the first `units` of every group, sharing weights and gradients.

    `own_tensor(name, tensor, kept)` may return a parameter or buffer to use instead of a slice.
    """
    copies, router = DenseCopies(), GradientRouter()

    def bind(name: str, tensor: Tensor, kept: Sequence[Kept]) -> Tensor:
        own = own_tensor(name, tensor, kept)
        if own is not None:
            return own
        if not isinstance(tensor, nn.Parameter):
            part = take(tensor, kept) if is_leading(kept) else copies.of(tensor, kept)
            if not is_leading(kept):
                copies.stand_for(part)
            return part
        if all(k is None for k in kept):
            return tensor
        part = take(tensor.detach(), kept) if is_leading(kept) else copies.of(tensor, kept)
        leaf = nn.Parameter(part, requires_grad=tensor.requires_grad)
        if not is_leading(kept):
            copies.stand_for(leaf)
        if leaf.requires_grad:
            router.add(leaf, tensor, kept)
        return leaf

    subnet = narrow(model, analysis, units, bind, share_leaves=True)
    copies.belong_to(subnet)
    _routers[subnet] = router
    subnet.register_forward_pre_hook(SubnetHook(router.before_forward))
    return subnet


@contextmanager
def contiguous(
    subnet: nn.Module, *, cast: Sequence[nn.Parameter] = (), dtype: torch.dtype = torch.float32
) -> Iterator[None]:
    """Context manager in which the weights of a subnet are dense copies; the supernet's must not change meanwhile.

    Kernels copy strided weights at every call; this does it once for many, or for a forward and its backward. Those in
    `cast` are copied to `dtype`, whether they are strided or not.
    """
    router = _routers.get(subnet)
    # Another thread would take these copies for the weights.
    with nullcontext() if router is None else router.lock, synced(subnet):
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
