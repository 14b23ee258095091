"""Operators that run without the dropped channels in the masked network, because zeros would count for something."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

__all__ = ["is_compacted", "run_compacted"]

_OPERATORS = frozenset(
    f"aten.{name}"
    for name in (
        "all", "aminmax", "binary_cross_entropy", "binary_cross_entropy_with_logits", "dist", "huber_loss", "kl_div",
        "l1_loss", "linalg_matrix_norm", "linalg_norm", "logcumsumexp", "masked_scatter", "mse_loss", "nanmean",
        "pairwise_distance", "poisson_nll_loss", "prod", "smooth_l1_loss", "soft_margin_loss",
    )
)  # fmt: skip


def is_compacted(node: Node, base: str) -> bool:
    """Whether an operator (its name without the overload) has to run on the kept channels alone."""
    if base == "aten.linalg_vector_norm":  # the least of all, which would be a dropped one
        return len(node.args) > 1 and isinstance(node.args[1], (int, float)) and node.args[1] < 0
    return base.rstrip("_") in _OPERATORS


def run_compacted(
    node: Node, value_of: Callable[[Node], Any], masks: Mapping[str, Sequence[Tensor]], *, in_place: bool
) -> Any:
    """What an operator returns for the kept channels, with zeros in place of the dropped ones.

    Where channels of two dimensions are dropped together, the operator runs on the full tensors.
    """
    assert callable(node.target)
    whole = {source: value_of(source) for source in node.all_input_nodes}
    vectors = {source: _vectors(masks.get(source.name, ()), value) for source, value in whole.items()}
    if any(found is None for found in vectors.values()):
        found: dict[Node, Any] = whole
    else:
        found = {source: _take(value, vectors[source] or {}) for source, value in whole.items()}
    result = node.target(*map_arg(node.args, found.__getitem__), **map_arg(node.kwargs, found.__getitem__))
    if isinstance(result, Tensor):
        full = _put_back(result, node.meta["val"], masks.get(node.name, ()))
        return whole[node.all_input_nodes[0]].copy_(full) if in_place else full
    names = {user.args[1]: user.name for user in node.users if len(user.args) > 1}
    return type(result)(
        _put_back(part, example, masks.get(names.get(number, ""), ()))
        for number, (part, example) in enumerate(zip(result, node.meta["val"], strict=True))
    )


def _vectors(masks: Sequence[Tensor], value: Any) -> dict[int, Tensor] | None:
    """Kept positions by dimension; None if masks depend on several dimensions at once."""
    found: dict[int, Tensor] = {}
    for mask in masks:
        dims = [dim for dim, size in enumerate(mask.shape) if size > 1]
        if len(dims) != 1 or not isinstance(value, Tensor):
            return None
        kept = mask.reshape(-1)
        found[dims[0]] = found[dims[0]] & kept if dims[0] in found else kept
    return found


def _take(value: Any, vectors: Mapping[int, Tensor]) -> Any:
    for dim, kept in vectors.items():
        value = value.index_select(dim, kept.nonzero()[:, 0])
    return value


def _put_back(part: Tensor, example: Tensor, masks: Sequence[Tensor]) -> Tensor:
    if part.shape == example.shape:
        return part
    for dim, kept in (_vectors(masks, part) or {}).items():
        shape = list(part.shape)
        shape[dim] = kept.numel()
        part = part.new_zeros(shape).index_copy(dim, kept.nonzero()[:, 0], part)
    return part
