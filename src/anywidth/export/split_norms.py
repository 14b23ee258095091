"""Split batch norms after concatenated layers, so that each part can be folded into its layer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

__all__ = ["split_batch_norms_"]

_aten = torch.ops.aten


def split_batch_norms_(module: fx.GraphModule, is_foldable: Callable[[fx.Node], bool]) -> None:
    """Replace the batch norm of a concatenation of layers by one batch norm per layer, in place.

    Blocked layers of nested networks compute their channels in such parts. Concatenations of other tensors, and those
    that something else reads too, are left unchanged.

    Args:
        module: Result of `ExportedProgram.module()`; parts of norms become new buffers.
        is_foldable: Whether a batch norm can be folded into a node.

    >>> class Halves(nn.Module):
    ...     def __init__(self) -> None:
    ...         super().__init__()
    ...         self.a, self.b, self.norm = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(6)
    ...     def forward(self, x: Tensor) -> Tensor:
    ...         return self.norm(torch.cat([self.a(x), self.b(x)], 1))
    >>> graph = torch.export.export(Halves().eval(), (torch.randn(2, 3, 5, 5),)).module()
    >>> split_batch_norms_(graph, lambda node: node.target is _aten.conv2d.default)
    >>> sum(node.target is _aten.batch_norm.default for node in graph.graph.nodes)
    2
    """
    tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    for norm in list(module.graph.nodes):
        if norm.target is not _aten.batch_norm.default or norm.args[5]:  # args[5]: normalizes with batch statistics
            continue
        joined = norm.args[0]
        if not _joins_layers(joined, is_foldable):
            continue
        read = [None if a is None else tensors.get(str(a.target)) for a in norm.args[1:5]]
        if any(a is not None and t is None for a, t in zip(norm.args[1:5], read, strict=True)):
            continue
        parts, start = [], 0
        for layer in joined.args[0]:
            end = start + layer.meta["val"].shape[1]
            pieces = [None if t is None else t.detach()[start:end] for t in read]
            parts.append(_norm_part(module, norm, layer, pieces))
            start = end
        joined.args = (parts, *joined.args[1:])
        norm.replace_all_uses_with(joined)
        module.graph.erase_node(norm)
    module.recompile()


def _joins_layers(node: fx.Node, is_foldable: Callable[[fx.Node], bool]) -> bool:
    """Whether a node concatenates the channels of layers, and nothing but its batch norm reads them."""
    if node.target is not _aten.cat.default or len(node.users) != 1:
        return False
    layers, dim = node.args[0], node.args[1] if len(node.args) > 1 else 0
    if not isinstance(layers, (list, tuple)) or not isinstance(dim, int) or dim % node.meta["val"].ndim != 1:
        return False
    return all(isinstance(layer, fx.Node) and is_foldable(layer) and len(layer.users) == 1 for layer in layers)


def _norm_part(module: fx.GraphModule, norm: fx.Node, layer: fx.Node, pieces: list[Tensor | None]) -> fx.Node:
    """The batch norm of the channels of one layer, as a new node behind it."""
    names = [None if piece is None else _add_buffer(module, piece) for piece in pieces]
    with module.graph.inserting_after(layer):
        part = module.graph.call_function(_aten.batch_norm.default, (layer, *norm.args[1:]), norm.kwargs)
    with module.graph.inserting_before(part):
        read = [None if name is None else module.graph.get_attr(name) for name in names]
    part.args = (layer, *read, *norm.args[5:])
    part.meta["val"] = layer.meta["val"]
    return part


def _add_buffer(module: nn.Module, tensor: Tensor) -> str:
    number = 0
    while hasattr(module, f"_norm_part_{number}"):
        number += 1
    name = f"_norm_part_{number}"
    module.register_buffer(name, tensor.clone())
    return name
