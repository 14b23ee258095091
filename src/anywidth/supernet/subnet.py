"""Subnets bound to a supernet: ordinary modules whose parameters are slices of the supernet's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.groups.analysis import Analysis, Kept
from anywidth.groups.narrow import is_leading, narrow, take

__all__ = ["GradientLinks", "bind_subnet", "contiguous"]


class GradientLinks:
    """Gradients of subnets' parameters, which are slices of their supernet's gradients.

    The gradient of a leaf is bound to the slice when autograd comes to it, which then adds there in place. So nothing
    depends on which gradient tensor the supernet has at the moment: `zero_grad(set_to_none=True)` is fine at any
    point, and gradients that the supernet dropped are let go of. Where the kept part is no slice, autograd hands the
    leaf its gradient, and it is scattered there and then.
    """

    def __init__(self) -> None:
        _warn_of_layouts_unheard()
        self._bound: dict[Tensor, tuple[Tensor, list[_Binding]]] = {}

    def attach(self, leaf: nn.Parameter, parent: nn.Parameter, kept: Sequence[Kept]) -> None:
        """From now on, add the gradients of `leaf` to the kept part of `parent.grad`."""
        if is_leading(kept):
            binding = _Binding(leaf, parent, self._rebind)
            leaf.register_hook(binding.before)
            leaf.register_post_accumulate_grad_hook(binding.after)
            return

        def scatter(_: Tensor) -> None:
            gradient = leaf.grad
            assert gradient is not None
            leaf.grad = None
            _scatter(_gradient_of(parent), kept, gradient)

        leaf.register_post_accumulate_grad_hook(scatter)

    def release(self) -> None:
        """Let go of gradients that the supernet no longer has."""
        for parent, (gradient, bindings) in list(self._bound.items()):
            if parent.grad is not gradient:
                for binding in bindings:
                    binding.release()
                del self._bound[parent]

    def _rebind(self, binding: _Binding, whole: Tensor) -> None:
        """Bind a leaf to the gradient that its supernet has now."""
        known, bindings = self._bound.get(binding.parent, (None, []))
        if known is not whole:
            for stale in bindings:
                stale.release()
            bindings = []
            self._bound[binding.parent] = (whole, bindings)
        bindings.append(binding)
        binding.bind(whole)


@cache
def _warn_of_layouts_unheard() -> None:
    """Use up autograd's one warning that a gradient is strided: slices of gradients are, on purpose."""
    with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():
        warnings.simplefilter("ignore")
        leaf = torch.zeros(2, 2, requires_grad=True)  # made in here: one of inference mode takes no gradient
        leaf.grad = torch.zeros(2, 3)[:, :2]
        leaf.sum().backward()


class _Binding:
    """One leaf whose gradient is the leading block of its parent's; its methods are what autograd calls."""

    __slots__ = ("_part", "_shape", "_whole", "leaf", "parent", "rebind")

    def __init__(self, leaf: nn.Parameter, parent: nn.Parameter, rebind: Callable[[_Binding, Tensor], None]) -> None:
        self.leaf, self.parent, self.rebind = leaf, parent, rebind
        self._shape = tuple(leaf.shape)
        self._whole: Tensor | None = None
        self._part: Tensor | None = None

    def before(self, _: Tensor) -> None:
        """A gradient is about to be added to what the leaf has."""
        whole = self.parent.grad
        if whole is None or whole is not self._whole or self.leaf.grad is not self._part:
            self.rebind(self, _gradient_of(self.parent) if whole is None else whole)

    def after(self, _: Tensor) -> None:
        """A gradient has been added; a graph of gradients is not built in place."""
        if self.leaf.grad is not self._part:
            assert self._part is not None
            assert self.leaf.grad is not None
            self._part.copy_(self.leaf.grad.detach())
            self.leaf.grad = self._part

    def bind(self, whole: Tensor) -> None:
        """Make the leaf's gradient a slice of this one."""
        self._whole = whole
        plain = whole.detach() if whole.requires_grad else whole
        self._part = plain.as_strided(self._shape, plain.stride(), plain.storage_offset())
        self.leaf.grad = self._part

    def release(self) -> None:
        """Forget the gradient bound to."""
        self._whole = self._part = self.leaf.grad = None


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
