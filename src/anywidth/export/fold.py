"""Folding of batch norms into the preceding layer of an exported graph."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, fx, nn

from anywidth.export.split_norms import split_batch_norms_

__all__ = ["fold_batch_norms_"]

_aten = torch.ops.aten
_PLAIN = {
    _aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default,
    _aten.conv1d.padding, _aten.conv2d.padding, _aten.conv3d.padding,
}  # fmt: skip
"""Layers whose weight has the output channels in the first dimension."""
_TRANSPOSED = {_aten.conv_transpose1d.default, _aten.conv_transpose2d.input, _aten.conv_transpose3d.input}
"""Layers whose weight has the output channels in the second dimension, by convolution group."""
_GROUPS_OF_TRANSPOSED = 6
"""Position of the number of groups in the arguments of a transposed convolution."""


def fold_batch_norms_(module: fx.GraphModule) -> dict[str, Tensor]:
    """Fold every evaluation-mode batch norm into the convolution or linear layer that feeds only it, in place.

    The graph decides, not the order of modules: nothing else may read the layer's output or its weight. A batch norm
    before a layer, after a sum, or after a shared or computed weight is left unchanged. One after concatenated layers
    is split among them.

    Args:
        module: Result of `ExportedProgram.module()`; folded weights become new parameters of the same names.

    Returns:
        Factor of every folded weight by name, in a shape that broadcasts to the weight.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).eval()
    >>> program = torch.export.export(model, (torch.randn(2, 3, 5, 5),))
    >>> graph = program.module()
    >>> scales = fold_batch_norms_(graph)
    >>> {name: tuple(scale.shape) for name, scale in scales.items()}
    {'0.weight': (4, 1, 1, 1)}
    >>> sorted(name for name, _ in graph.named_parameters())
    ['0.bias', '0.weight']
    """
    split_batch_norms_(module, _is_foldable)
    tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
    uses = Counter(
        {id(tensors[str(n.target)]): 0 for n in module.graph.nodes if n.op == "get_attr" and n.target in tensors}
    )
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.target in tensors:
            uses[id(tensors[str(node.target)])] += len(node.users)
    scales: dict[str, Tensor] = {}
    for norm in list(module.graph.nodes):
        if norm.target is not _aten.batch_norm.default or norm.args[5]:  # args[5]: normalizes with batch statistics
            continue
        layer = norm.args[0]
        if not _is_foldable(layer) or len(layer.users) != 1:
            continue
        weight = layer.args[1]
        if weight.op != "get_attr" or uses[id(tensors[str(weight.target)])] != 1:
            continue
        read = [None if a is None else tensors.get(str(a.target)) for a in (*norm.args[1:5], _bias(layer))]
        if any(a is not None and t is None for a, t in zip((*norm.args[1:5], _bias(layer)), read, strict=True)):
            continue
        scales[str(weight.target)] = _fold(module, layer, norm, tensors[str(weight.target)], read)
    module.graph.eliminate_dead_code()
    _delete_unread(module)
    module.recompile()
    return scales


def _is_foldable(layer: Any) -> bool:
    if not isinstance(layer, fx.Node):
        return False
    if layer.target is _aten.linear.default:  # batch norms act on dimension 1, linear layers on the last
        return layer.meta["val"].ndim == 2
    return layer.target in _PLAIN or layer.target in _TRANSPOSED


def _bias(layer: fx.Node) -> Any:
    return layer.args[2] if len(layer.args) > 2 else None


def _fold(module: fx.GraphModule, layer: fx.Node, norm: fx.Node, weight: Tensor, read: list[Tensor | None]) -> Tensor:
    gamma, beta, mean, variance, bias = (None if tensor is None else tensor.detach().double() for tensor in read)
    assert mean is not None
    assert variance is not None
    epsilon: Any = norm.args[7]
    scale = torch.rsqrt(variance + epsilon)
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if bias is None else (bias - mean) * scale
    shift = shift if beta is None else shift + beta
    scale = scale.to(weight.dtype)
    if layer.target in _TRANSPOSED:
        groups: Any = layer.args[_GROUPS_OF_TRANSPOSED] if len(layer.args) > _GROUPS_OF_TRANSPOSED else 1
        by_group = scale.reshape(groups, 1, -1)  # (groups, inputs of a group, outputs of a group)
        broad = by_group.expand(-1, weight.shape[0] // groups, -1).reshape(weight.shape[0], -1)
        broad = broad if groups > 1 else broad[:1]
        factor = broad.reshape(*broad.shape, *[1] * (weight.ndim - 2)).contiguous()
    else:
        factor = scale.reshape(-1, *[1] * (weight.ndim - 1))
    name = str(layer.args[1].target)  # type: ignore[union-attr]
    _set(module, name, weight.detach() * factor)
    new = _free_name(module, name)
    _set(module, new, shift.to(weight.dtype))
    with module.graph.inserting_before(layer):
        node = module.graph.get_attr(new)
    node.meta["val"] = norm.meta["val"].new_empty(shift.shape) if "val" in norm.meta else None
    layer.args = (*layer.args[:2], node, *layer.args[3:])
    norm.replace_all_uses_with(layer)
    module.graph.erase_node(norm)
    return factor


def _set(module: fx.GraphModule, name: str, value: Tensor) -> None:
    path, _, last = name.rpartition(".")
    setattr(module.get_submodule(path), last, nn.Parameter(value, requires_grad=False))


def _free_name(module: fx.GraphModule, weight: str) -> str:
    """Unused name for a bias next to a weight."""
    path, _, last = weight.rpartition(".")
    owner = module.get_submodule(path)
    names = ("bias", f"{last}_folded_bias")
    name = next(name for name in names if getattr(owner, name, None) is None)
    return f"{path}.{name}" if path else name


def _delete_unread(module: fx.GraphModule) -> None:
    """Delete parameters and buffers that the graph no longer reads."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, owner in list(module.named_modules()):
        for register in (owner._parameters, owner._buffers):
            for key in list(register):
                if (f"{name}.{key}" if name else key) not in read:
                    del register[key]
