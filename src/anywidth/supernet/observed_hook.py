"""Call a hook and find out whether it changes numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.utils._pytree as pytree
from torch import Tensor, nn

__all__ = ["observe"]


def observe(
    hook: Callable[..., Any], module: nn.Module, given: Sequence[Any], pre: bool, found: Callable[[], object]
) -> Any:
    """The result of a hook; one that returns another value, or that writes to a tensor, changes numbers.

    Args:
        hook: The hook.
        module: The module that it is called for.
        given: Its other arguments.
        pre: Whether it is a forward pre-hook.
        found: Called after a hook that changes numbers.
    """
    # A pre-hook gets arguments alone, any other hook gets the output last.
    passed = pytree.tree_leaves(given if pre else given[-1])
    before = _state(given)
    result = hook(module, *given)
    returned = passed if result is None else pytree.tree_leaves(result)
    same = len(returned) == len(passed) and all(a is b for a, b in zip(returned, passed, strict=True))
    if not same or _state(given) != before:
        found()
    return result


def _state(given: Any) -> list[Any]:
    """Values that change when a tensor is written; inference tensors do not count writes, so their sums have to do."""
    return [
        str(leaf.sum().item()) if leaf.is_inference() else leaf._version
        for leaf in pytree.tree_leaves(given)
        if isinstance(leaf, Tensor)
    ]
