"""Moves the gradients of a subnet to those of the supernet."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from anywidth.groups.analysis import KeptIndices
from anywidth.groups.narrow import TensorIndices, is_leading
from anywidth.supernet.dense_copies import on_device
from anywidth.supernet.full_gradient import accumulate, scatter, watched
from anywidth.supernet.subnet_parameter import own_gradient

if TYPE_CHECKING:
    from anywidth.supernet.record import SubnetRecord

__all__ = ["GradientRouter"]


class GradientRouter:
    """Adds the gradients of a subnet's leaves to their parts of the supernet's gradients.

    A leaf does not keep its gradient, so nothing depends on the supernet's current gradient tensor, and
    `zero_grad(set_to_none=True)` works at any point. `SubnetParameter` refuses to be asked for it. Binding the leaf's
    gradient to the slice would need a second hook, to detect that the slice no longer belongs to the supernet. It made
    steps 2 to 3% slower.
    """

    def __init__(self) -> None:
        # Weak, because leaves refer to this object by their hooks.
        self._leaves: list[tuple[ReferenceType[nn.Parameter], _Place]] = []
        self._held = False
        self.lock = threading.RLock()

    def add(self, leaf: nn.Parameter, parent: nn.Parameter, kept: Sequence[KeptIndices]) -> None:
        """Add a leaf."""
        place = _Place(parent, tuple(leaf.shape), on_device(kept, parent.device), is_leading(kept))
        self._leaves.append((ref(leaf), place))
        leaf.register_post_accumulate_grad_hook(lambda leaf: None if self._held else _move([(leaf, place)]))

    @property
    def leading(self) -> list[nn.Parameter]:
        """The leaves that are leading blocks."""
        return [leaf for leaf, place in self._alive() if place.leading]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Context manager in which leaves keep their gradients; at its end, all gradients are moved at once."""
        with self.lock:
            self._held = True
            try:
                yield
                _move(self._alive())
            finally:
                self._held = False
                for leaf, _ in self._alive():
                    leaf.grad = None

    def before_forward(self, record: SubnetRecord) -> None:
        """Prepare a subnet for backward passes in several threads, if there are any.

        The threads share its leaves. Autograd adds to a gradient under a lock but runs hooks without it, so a hook
        could take a leaf's gradient during another thread's addition. With several threads, gradients are therefore
        moved before they are added.
        """
        if not torch.is_grad_enabled() or not _in_several_threads():
            return
        with self.lock:
            if record.nodes is None:
                nodes = []
                for leaf, place in self._alive():
                    if not leaf.is_cuda:  # backward passes on a GPU run in a single thread
                        nodes.append(_accumulator(leaf))
                        nodes[-1].register_prehook(lambda gradients, place=place: _instead(gradients, place))
                record.nodes = nodes

    def _alive(self) -> list[tuple[nn.Parameter, _Place]]:
        return [(leaf, place) for weak, place in self._leaves if (leaf := weak()) is not None]


class _Place(NamedTuple):
    """The part of the supernet that a leaf corresponds to."""

    parent: nn.Parameter
    shape: tuple[int, ...]
    kept: Sequence[TensorIndices]
    leading: bool


def _move(leaves: Sequence[tuple[Tensor, _Place]]) -> None:
    """Move the gradients of leaves to those of the supernet."""
    gradients = [(gradient, place) for leaf, place in leaves if (gradient := own_gradient(leaf)) is not None]
    for leaf, _ in leaves:
        leaf.grad = None
    _add(gradients)


def _instead(gradients: Sequence[Tensor], place: _Place) -> tuple[None] | None:
    """Add a gradient to the supernet's instead of the leaf's; with one thread, leave it to the leaf."""
    if not _in_several_threads() or gradients[0] is None:
        return None
    _add([(gradients[0], place)])
    return (None,)


def _add(gradients: Sequence[tuple[Tensor, _Place]]) -> None:
    """Add the gradients of leaves to those of the supernet."""
    # A kernel for many tensors needs dense ones: parts of vectors are dense, parts of matrices are not.
    vectors: tuple[list[Tensor], list[Tensor]] = ([], [])
    others: tuple[list[Tensor], list[Tensor]] = ([], [])
    shared = _in_several_threads()
    for gradient, (parent, shape, kept, leading) in gradients:
        whole = parent.grad
        if gradient.is_sparse or watched(parent):
            accumulate(parent, kept, gradient)
            continue
        if shared and not parent.is_cuda:
            _accumulate(parent, shape, kept, leading, gradient)
            continue
        if whole is None:
            whole = parent.grad = torch.zeros_like(parent)
        if gradient.requires_grad or whole.requires_grad:  # gradients with a graph cannot be added in place
            gradient, whole = gradient.detach(), whole.detach()
        if leading:
            parts, summands = vectors if len(shape) == 1 else others
            parts.append(whole.as_strided(shape, whole.stride(), whole.storage_offset()))
            summands.append(gradient)
        else:
            scatter(whole, kept, gradient)
    for parts, summands in (vectors, others):
        if len(parts) == 1:
            parts[0].add_(summands[0])
        elif parts:
            torch._foreach_add_(parts, summands)  # type: ignore[attr-defined]


_threads: set[int] = set()
"""Threads in which gradients were moved."""


def _in_several_threads() -> bool:
    """Whether backward passes may run in other threads at the same time.

    This is assumed if gradients are moved in several threads, or outside the main thread. Unrelated threads (of a
    loader, a progress bar, a notebook) do not need the slower way.
    """
    if threading.active_count() == 1:
        return False
    _threads.intersection_update(thread.ident for thread in threading.enumerate() if thread.ident is not None)
    _threads.add(threading.get_ident())
    return len(_threads) > 1 or threading.current_thread() is not threading.main_thread()


def _accumulate(
    parent: nn.Parameter, shape: tuple[int, ...], kept: Sequence[TensorIndices], leading: bool, gradient: Tensor
) -> None:
    """Add a gradient as autograd does, which locks the parameter against backward passes of other threads.

    This needs a gradient of the size of the whole parameter, so it is used only with several threads.
    """
    whole = torch.zeros_like(parent)
    if leading:
        whole.as_strided(shape, whole.stride(), whole.storage_offset()).copy_(gradient.detach())
    else:
        scatter(whole, kept, gradient.detach())
    with torch.enable_grad():
        node = _accumulator(parent)
    with torch.no_grad():
        node(whole)


def _accumulator(parameter: nn.Parameter) -> Any:
    """Autograd's node that adds to a parameter's gradient."""
    return parameter.view_as(parameter).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
