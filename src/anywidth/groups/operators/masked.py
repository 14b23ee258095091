"""Masked runs of operators that depend on the number of channels: over the kept ones only."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

__all__ = ["always", "attention", "batch_norm", "extreme", "group_norm", "layer_norm", "least_norm", "moments"]


def always(node: Node) -> bool:
    """Run the operator on the kept channels only, in every call."""
    return True


def least_norm(node: Node) -> bool:
    """Whether a norm has negative order: it is the smallest value, which would be a dropped one."""
    return len(node.args) > 1 and isinstance(node.args[1], (int, float)) and node.args[1] < 0


def _run(node: Node, *args: Any, **kwargs: Any) -> Any:
    """The result of a node's operator for other arguments."""
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _dims(args: Any, kwargs: Any, ndim: int, position: int) -> list[int]:
    dims = args[position] if len(args) > position else kwargs.get("dim")
    if dims is None or dims == [] or isinstance(dims, bool):
        return list(range(ndim))
    return [d % ndim for d in ([dims] if isinstance(dims, int) else dims)]


def _moments(x: Tensor, mask: Tensor, dims: list[int], keepdim: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    weight = mask.expand_as(x).to(x.dtype)
    count = weight.sum(dims, keepdim=True).clamp(min=1)
    mean = (x * weight).sum(dims, keepdim=True) / count
    square = ((x - mean).square() * weight).sum(dims, keepdim=True)
    return mean, square, count


def moments(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
    """Mean, variance or standard deviation."""
    x = args[0]
    mean, square, count = _moments(x, mask, _dims(args, kwargs, x.ndim, 1))
    results = []
    correction = kwargs.get("correction", 1)
    if len(args) > 2 and isinstance(args[2], bool) and isinstance(args[1], list) and "correction" not in name:
        correction = int(args[2]) if ".mean" not in name else 0
    variance = square / (count - correction).clamp(min=1)
    spread = variance.sqrt() if ".std" in name else variance
    base = name.split(".")[1]
    results = {"mean": [mean], "var": [spread], "std": [spread]}.get(base, [spread, mean])
    examples = node.meta["val"] if isinstance(node.meta["val"], (tuple, list)) else [node.meta["val"]]
    shaped = [r.reshape(e.shape) for r, e in zip(results, examples, strict=True)]
    return shaped[0] if len(shaped) == 1 else tuple(shaped)


def extreme(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
    """Maximum, minimum or softmax: a dropped channel never wins."""
    x = args[0]
    far = float("inf") if "min" in name else -float("inf")
    filled = torch.where(mask, x, torch.full((), far, dtype=x.dtype))
    return _run(node, filled, *args[1:], **kwargs)


def layer_norm(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
    """Layer norm and RMS norm."""
    x, shape = args[0], args[1]
    weight = args[2] if len(args) > 2 else None
    rms = "rms" in name
    bias = None if rms else (args[3] if len(args) > 3 else None)
    default = torch.finfo(x.dtype).eps if rms else 1e-5
    eps = args[3 if rms else 4] if len(args) > (3 if rms else 4) else kwargs.get("eps")
    eps = default if eps is None else eps
    dims = list(range(x.ndim - len(shape), x.ndim))
    mean, square, count = _moments(x, mask, dims)
    if rms:
        weighted = (x.square() * mask).sum(dims, keepdim=True)
        normal = x / (weighted / count + eps).sqrt()
    else:
        normal = (x - mean) / (square / count + eps).sqrt()
    if weight is not None:
        normal = normal * weight
    return normal if bias is None else normal + bias


def group_norm(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
    """Group norm."""
    x, groups = args[0], args[1]
    weight = args[2] if len(args) > 2 else None
    bias = args[3] if len(args) > 3 else None
    eps = args[4] if len(args) > 4 else 1e-5
    grouped = x.reshape(x.shape[0], groups, -1)
    mean, square, count = _moments(grouped, mask.expand_as(x).reshape(grouped.shape), [2])
    normal = ((grouped - mean) / (square / count + eps).sqrt()).reshape(x.shape)
    shape = [1, -1] + [1] * (x.ndim - 2)
    if weight is not None:
        normal = normal * weight.reshape(shape)
    return normal if bias is None else normal + bias.reshape(shape)


def batch_norm(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
    """Batch norm in training mode, over values that are masked along dimensions other than the channels."""
    x, weight, bias, training, eps = args[0], args[1], args[2], args[5], args[7]
    if not training:
        return _run(node, *args, **kwargs)
    dims = [d for d in range(x.ndim) if d != 1]
    mean, square, count = _moments(x, mask, dims)
    shape = [1, -1] + [1] * (x.ndim - 2)
    normal = (x - mean) / (square / count + eps).sqrt()
    if weight is not None:
        normal = normal * weight.reshape(shape)
    return normal if bias is None else normal + bias.reshape(shape)


def attention(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
    """Attention: scales by the number of kept channels inside a single head."""
    if mask.shape[-1] > 1 and kwargs.get("scale") is None:
        kwargs = {**kwargs, "scale": 1 / math.sqrt(max(1, int(mask.sum(-1).max())))}
    return _run(node, *args, **kwargs)
