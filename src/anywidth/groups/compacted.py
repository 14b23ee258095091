"""Operators that the masked network runs without the dropped channels, because zeros would change the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

__all__ = ["run_compacted"]


def run_compacted(
    node: Node, value_of: Callable[[Node], Any], masks: Mapping[str, Sequence[Tensor]], *, in_place: bool
) -> Any:
    """The results of an operator on the kept channels, with zeros for the dropped ones.

    If channels of two dimensions are dropped together, the operator runs on the full tensors.
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
