"""Gradients of slices that are needed at full size: sparse ones, and those that the user's hooks watch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anywidth.groups.narrow import TensorIndices, put_
from anywidth.supernet.watch import check_kept

__all__ = ["accumulate", "scatter", "watched"]


def watched(parameter: nn.Parameter) -> bool:
    """Whether the user has registered hooks on a parameter's gradient.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> before = watched(weight)
    >>> handle = weight.register_hook(lambda gradient: gradient.clamp(-1, 1))
    >>> before, watched(weight)
    (False, True)
    """
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


@torch.no_grad()
def accumulate(parameter: nn.Parameter, kept: Sequence[TensorIndices], gradient: Tensor) -> None:
    """Add the gradient of a slice to the gradient of its whole parameter, in place, as autograd would.

    The user's hooks run in the order of a backward pass. First come those of `register_hook` on the full gradient
    (zeros outside the slice), which they may replace, then the addition, then those of
    `register_post_accumulate_grad_hook`. A sparse gradient stays sparse as long as nothing dense is added to it.

    Args:
        parameter: The supernet's parameter.
        kept: The positions of each dimension in the slice.
        gradient: The slice's gradient.
    """
    gradient = gradient.detach()
    if gradient.is_sparse:
        full = _widened(parameter, kept, gradient.coalesce())
    else:
        full = torch.zeros_like(parameter, dtype=gradient.dtype)
        scatter(full, kept, gradient)
    for hook in list((parameter._backward_hooks or {}).values()):
        result = hook(full)
        if result is not None:
            full = result
    before = parameter.grad
    if before is None:
        parameter.grad = full
    elif before.is_sparse:
        parameter.grad = (before + full).coalesce() if full.is_sparse else full.add(before)
    else:
        before.detach().add_(full)
    for hook in list((parameter._post_accumulate_grad_hooks or {}).values()):
        hook(parameter)
        check_kept(parameter)


def scatter(target: Tensor, kept: Sequence[TensorIndices], gradient: Tensor) -> None:
    """Add a gradient to the kept positions of a larger one, in place.

    >>> target = torch.zeros(4)
    >>> scatter(target, [torch.tensor([0, 2])], torch.ones(2))
    >>> target
    tensor([1., 0., 1., 0.])
    """
    indices = [(dim, k) for dim, k in enumerate(kept) if isinstance(k, Tensor)]
    if len(indices) > 1:
        put_(target, kept, gradient, accumulate=True)
        return
    for dim, k in enumerate(kept):
        if isinstance(k, int):
            target = target.narrow(dim, 0, k)
    if indices:
        target.index_add_(*indices[0], gradient)
    else:
        target.add_(gradient)


def _widened(parameter: nn.Parameter, kept: Sequence[TensorIndices], gradient: Tensor) -> Tensor:
    """A sparse gradient of the whole parameter: the same rows at their positions, with zeros where nothing is kept."""
    sparse = gradient.sparse_dim()
    rows = gradient.indices().clone()
    for dim, place in enumerate(kept[:sparse]):
        if isinstance(place, Tensor):
            rows[dim] = place[rows[dim]]
    values = gradient.values()
    full = values.new_zeros((values.shape[0], *parameter.shape[sparse:]))
    scatter(full, [None, *kept[sparse:]], values)
    return torch.sparse_coo_tensor(rows, full, parameter.shape, check_invariants=False).coalesce()
