"""Subnets bound to a supernet: ordinary modules whose parameters are slices of the supernet's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.groups.analysis import Analysis, Kept
from anywidth.groups.narrow import is_leading, narrow, take

__all__ = ["GradientLinks", "bind_subnet"]


class GradientLinks:
    """Gradients of subnets' parameters, which are slices of their supernet's gradients.

    Autograd hands a leaf its gradient, which is added to the slice of the supernet's there and then; the leaf shows
    that slice as its own `.grad`. So nothing depends on which gradient tensor the supernet has at the moment:
    `zero_grad(set_to_none=True)` is fine at any point, and gradients that the supernet dropped are let go of.
    """

    def __init__(self) -> None:
        self._bound: dict[Tensor, tuple[Tensor, list[Tensor]]] = {}

    def attach(self, leaf: nn.Parameter, parent: nn.Parameter, kept: Sequence[Kept]) -> None:
        """From now on, add the gradients of `leaf` to the kept part of `parent.grad`."""

        def add(_: Tensor) -> None:
            gradient = leaf.grad
            assert gradient is not None
            leaf.grad = None
            if is_leading(kept):
                part = self._slice(leaf, parent, kept)
                part.add_(gradient)
                leaf.grad = part
            else:
                _scatter(_gradient_of(parent), kept, gradient)

        def clear(_: Tensor) -> None:
            leaf.grad = None

        leaf.register_hook(clear)
        leaf.register_post_accumulate_grad_hook(add)

    @torch.no_grad()
    def _slice(self, leaf: Tensor, parent: Tensor, kept: Sequence[Kept]) -> Tensor:
        whole = _gradient_of(parent)
        known, leaves = self._bound.get(parent, (None, []))
        if known is not whole:
            for stale in leaves:
                stale.grad = None
            leaves = []
            self._bound[parent] = (whole, leaves)
        if not any(bound is leaf for bound in leaves):
            leaves.append(leaf)
        return take(whole, kept)

    def release(self) -> None:
        """Let go of gradients that the supernet no longer has."""
        for parent, (gradient, leaves) in list(self._bound.items()):
            if parent.grad is not gradient:
                for leaf in leaves:
                    leaf.grad = None
                del self._bound[parent]


def _gradient_of(parent: Tensor) -> Tensor:
    if parent.grad is None:
        parent.grad = torch.zeros_like(parent)
    return parent.grad


@torch.no_grad()
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
    links: GradientLinks,
    buffers: Callable[[str, Tensor, Sequence[Kept]], Tensor | None],
) -> nn.Module:
    """The subnet of `model` that keeps the first `units` of every group, sharing weights and gradients.

    `buffers(name, buffer, kept)` may return a private buffer to use instead of a slice.
    """
    gathered: list[_Gathered] = []

    def bind(name: str, tensor: Tensor, kept: Sequence[Kept]) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            private = buffers(name, tensor, kept)
            part = take(tensor, kept) if private is None else private
            if private is None and not is_leading(kept):
                gathered.append(_Gathered(part, tensor, kept))
            return part
        if all(k is None for k in kept):
            return tensor
        leaf = nn.Parameter(take(tensor.detach(), kept), requires_grad=tensor.requires_grad)
        if leaf.requires_grad:
            links.attach(leaf, tensor, kept)
        if not is_leading(kept):
            gathered.append(_Gathered(leaf, tensor, kept))
        return leaf

    subnet = narrow(model, analysis, units, bind)
    if gathered:
        subnet.register_forward_pre_hook(lambda *_: _refresh(gathered))
    return subnet


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
