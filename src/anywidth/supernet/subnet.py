"""Subnets bound to a supernet: ordinary modules whose parameters are slices of the supernet's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.groups.analysis import Analysis, Kept
from anywidth.groups.narrow import is_leading, narrow, take

__all__ = ["Private", "bind_subnet", "contiguous"]

Private = Callable[[str, Tensor, Sequence[Kept]], Tensor | None]
"""What a subnet has instead of a part of the supernet's tensor of this name, or None."""


class _AddToParent:
    """What autograd calls when it has a gradient for a leaf: the gradient moves into the leaf's part of its parent's.

    The leaf keeps none, so nothing depends on which gradient tensor the supernet has at the moment, and
    `zero_grad(set_to_none=True)` is fine at any point. Binding the leaf's gradient to the slice instead takes a second
    hook, to notice that the slice is no longer the supernet's, and was 2 to 3% of a step slower.
    """

    __slots__ = ("_kept", "_leading", "_parent", "_shape")

    def __init__(self, parent: nn.Parameter, shape: torch.Size, kept: Sequence[Kept]) -> None:
        self._parent, self._shape, self._kept = parent, tuple(shape), kept
        self._leading = is_leading(kept)

    def __call__(self, leaf: Tensor) -> None:
        assert leaf.grad is not None
        gradient = leaf.grad.detach()  # a graph of gradients is not built in place
        leaf.grad = None
        if self._parent.grad is None:
            self._parent.grad = torch.zeros_like(self._parent)
        whole = self._parent.grad.detach()
        if self._leading:
            whole.as_strided(self._shape, whole.stride(), whole.storage_offset()).add_(gradient)
        else:
            _scatter(whole, self._kept, gradient)


def _scatter(target: Tensor, kept: Sequence[Kept], gradient: Tensor) -> None:
    """Add a gradient to the kept positions of a larger one."""
    indices: list[tuple[int, Tensor]] = []
    for dim, k in enumerate(kept):
        if isinstance(k, int):
            target = target.narrow(dim, 0, k)
        elif k is not None:
            indices.append((dim, torch.from_numpy(k).to(target.device)))
    if len(indices) == 1:
        target.index_add_(*indices[0], gradient)
        return
    grid = [torch.arange(size, device=target.device) for size in target.shape]
    for dim, index in indices:
        grid[dim] = index
    mesh = [g.reshape([-1 if i == d else 1 for i in range(len(grid))]) for d, g in enumerate(grid)]
    target.index_put_(tuple(mesh), gradient, accumulate=True)


def bind_subnet(
    model: nn.Module,
    analysis: Analysis,
    units: npt.NDArray[Any],
    private: Private,
) -> nn.Module:
    """The subnet of `model` that keeps the first `units` of every group, sharing weights and gradients.

    `private(name, tensor, kept)` may return a parameter or buffer to use instead of a slice.
    """
    gathered: list[_Gathered] = []

    def bind(name: str, tensor: Tensor, kept: Sequence[Kept]) -> Tensor:
        own = private(name, tensor, kept)
        if own is not None:
            return own
        if not isinstance(tensor, nn.Parameter):
            part = take(tensor, kept)
            if not is_leading(kept):
                gathered.append(_Gathered(part, tensor, kept))
            return part
        if all(k is None for k in kept):
            return tensor
        leaf = nn.Parameter(take(tensor.detach(), kept), requires_grad=tensor.requires_grad)
        if leaf.requires_grad:
            leaf.register_post_accumulate_grad_hook(_AddToParent(tensor, leaf.shape, kept))
        if not is_leading(kept):
            gathered.append(_Gathered(leaf, tensor, kept))
        return leaf

    subnet = narrow(model, analysis, units, bind)
    if gathered:
        subnet.register_forward_pre_hook(lambda *_: _refresh(gathered))
    return subnet


@contextmanager
def contiguous(subnet: nn.Module) -> Iterator[None]:
    """Within it, the weights of a subnet are dense copies; the supernet's must not change meanwhile.

    Kernels copy strided weights at every call; this does it once for many, or for a forward and its backward.
    """
    views = [(leaf, leaf.data) for leaf in subnet.parameters() if not _is_dense(leaf)]
    try:
        for leaf, view in views:
            leaf.data = view.clone()
        yield
    finally:
        for leaf, view in views:
            leaf.data = view


def _is_dense(tensor: Tensor) -> bool:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.is_contiguous() or (
        tensor.ndim in formats and tensor.is_contiguous(memory_format=formats[tensor.ndim])
    )


def _refresh(gathered: list[_Gathered]) -> None:
    if not torch.compiler.is_compiling():
        for copy in gathered:
            copy.refresh()


class _Gathered:
    """A tensor whose kept positions are no leading block: a copy, refreshed when the supernet's changes."""

    def __init__(self, leaf: Tensor, parent: Tensor, kept: Sequence[Kept]) -> None:
        self.leaf, self.parent, self.kept = leaf, parent, kept
        self._version = parent._version

    def refresh(self) -> None:
        """Copy the values again if an optimizer, a load or the full network's forward has changed them."""
        if self.parent._version != self._version:
            with torch.no_grad():
                self.leaf.copy_(take(self.parent, self.kept))
            self._version = self.parent._version
