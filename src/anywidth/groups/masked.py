"""The reference that subnets are proved against: the full network with dropped channels masked everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Graph, Interpreter, Node
from torch.fx.node import map_arg

from anywidth.core.inputs import Inputs
from anywidth.groups.capture import Capture
from anywidth.groups.compacted import is_compacted, run_compacted
from anywidth.groups.fixed_noise import FixedNoise
from anywidth.groups.labels import Array, varying

__all__ = ["masks_of", "run_masked"]


def run_masked(
    capture: Capture,
    tensors: Mapping[str, Tensor],
    inputs: Inputs,
    masks: Mapping[str, list[np.ndarray]],
    watch: Callable[[Node, Mapping[Node, Any]], None],
    noise: FixedNoise | None = None,
) -> tuple[Any, set[torch.dtype]]:
    """Outputs of a captured graph at full width with some channels masked, and the precisions that it computed in.

    Sums ignore masked channels because they are zero; means, norms, maxima and softmax over channels count the
    kept ones only.

    Args:
        capture: The graph.
        tensors: Parameters and buffers by name, at full width.
        inputs: What the model is called with.
        masks: For values by node name: boolean arrays that broadcast to them, False where dropped.
        watch: Called before every node with the values computed so far. Dropped channels of these need not be zero.
        noise: The source of random numbers that the narrowed network has as well.
    """
    flat = iter(inputs.tensors())
    placeholders = []
    for node in capture.program.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in capture.tensors:
            placeholders.append(tensors[capture.tensors[node.name]])
        elif node.name in capture.constants:
            placeholders.append(capture.constants[node.name])
        elif isinstance(node.meta.get("val"), Tensor):
            placeholders.append(next(flat))
        else:
            placeholders.append(None)
    found = {name: [torch.from_numpy(mask) for mask in arrays] for name, arrays in masks.items()}
    runner = _Masked(capture.program.graph_module, found, watch, noise)
    return runner.run(*placeholders), runner.dtypes


def masks_of(facets: Mapping[str, list[Array]], kept: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Boolean masks from label arrays, `kept` being indexed by label."""
    masks: dict[str, list[np.ndarray]] = {}
    for name, arrays in facets.items():
        found = [kept[a] for a in arrays if varying(a)]
        dropped = [mask for mask in found if not mask.all()]
        if dropped:
            masks[name] = dropped
    return masks


class _Masked(Interpreter):
    def __init__(
        self,
        module: torch.fx.GraphModule,
        masks: Mapping[str, list[Tensor]],
        watch: Callable[[Node, Mapping[Node, Any]], None],
        noise: FixedNoise | None,
    ) -> None:
        super().__init__(module)
        self.masks, self.watch, self.noise = masks, watch, noise
        self.dtypes: set[torch.dtype] = set()
        self.written = _written_through(module.graph)

    def run_node(self, n: Node) -> Any:
        if "aten._assert" in str(n.target):  # the traced dtype, or the domain of values that may be masked here
            return None
        if self.noise is not None:
            self.noise.masks = self.masks.get(n.name, [])
        self.watch(n, self.env)
        special = _SPECIAL.get(_base(n))
        source = n.all_input_nodes[0] if n.all_input_nodes else None
        masks = self.masks.get(source.name, []) if source is not None else []
        if special and masks:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            mask = masks[0]
            for other in masks[1:]:
                mask = mask & other
            result = special(str(n.target), mask, args, kwargs, n)
        elif is_compacted(n, _base(n)) and any(self.masks.get(node.name) for node in n.all_input_nodes):
            result = run_compacted(n, self._value, self.masks, in_place=_base(n).endswith("_"))
        elif str(n.target) == "aten.view.default":  # masked values may have other strides than the traced ones
            result = torch.reshape(*self.fetch_args_kwargs_from_env(n)[0])
        else:
            result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point():
            self.dtypes.add(result.dtype)
        return result if n.op == "placeholder" else self._masked(n, result)

    def map_nodes_to_values(self, args: Any, n: Node) -> Any:
        """Arguments of a node; weights are masked here and not beforehand, so that few masked copies live at a time."""
        return map_arg(args, self._value)

    def _value(self, node: Node) -> Any:
        return self._masked(node, self.env[node]) if node.op == "placeholder" else self.env[node]

    def _masked(self, node: Node, value: Any) -> Any:
        if isinstance(value, Tensor) and not (_finite(node) and all(_indifferent(user, node) for user in node.users)):
            for mask in self.masks.get(node.name, []):
                if node in self.written:  # a copy would keep what is written later from what it is a view of
                    value.masked_fill_(~mask, 0)
                else:
                    value = torch.where(mask, value, torch.zeros((), dtype=value.dtype))
        return value


def _written_through(graph: Graph) -> set[Node]:
    """Views, of values that the graph computes, through which an operator in place writes."""
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and _base(node).endswith("_"):
            view = node.args[0]
            while isinstance(view, Node) and _base(view) in _VIEWS:
                found.add(view)
                view = view.args[0]
    return found


def _base(node: Node) -> str:
    return _without_overload(node.target) if node.op == "call_function" else ""


@cache
def _without_overload(target: Any) -> str:
    return str(target).rsplit(".", 1)[0]


def _run(node: Node, *args: Any, **kwargs: Any) -> Any:
    """What the operator of a node returns for other arguments."""
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _finite(node: Node) -> bool:
    """Whether an operator makes finite numbers even of dropped channels, which a zero weight can then silence."""
    return node.op == "placeholder" or _base(node).rstrip("_") in _BY_WEIGHT | _PER_CHANNEL


def _indifferent(user: Node, source: Node) -> bool:
    """Whether what an operator makes of dropped channels is dropped too, or multiplied by a weight that is masked."""
    base = _base(user).rstrip("_")
    if base in _BY_WEIGHT:
        return source in user.args[:1] and source not in user.args[1:]
    return base in _PER_CHANNEL


_VIEWS = frozenset(
    f"aten.{name}"
    for name in ("slice", "select", "narrow", "view", "transpose", "permute", "unsqueeze", "squeeze", "alias", "detach")
)
_BY_WEIGHT = frozenset({"aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.linear"})
_PER_CHANNEL = frozenset(
    f"aten.{name}"
    for name in (
        "view", "permute", "transpose", "dropout", "clone", "contiguous", "detach", "add", "sub", "mul", "relu", "gelu",
        "silu", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid",
    )
)  # fmt: skip


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


def _mean(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
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


def _extreme(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
    x = args[0]
    far = float("inf") if "min" in name else -float("inf")
    filled = torch.where(mask, x, torch.full((), far, dtype=x.dtype))
    return _run(node, filled, *args[1:], **kwargs)


def _layer_norm(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
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


def _group_norm(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
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


def _weight_norm(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
    """Batch norm in training mode, over values that are masked along other dimensions than the channels."""
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


def _attention(name: str, mask: Tensor, args: Any, kwargs: Any, node: Node) -> Any:
    """Attention scales by the number of channels in a head, so inside a single head the kept ones count."""
    if mask.shape[-1] > 1 and kwargs.get("scale") is None:
        kwargs = {**kwargs, "scale": 1 / math.sqrt(max(1, int(mask.sum(-1).max())))}
    return _run(node, *args, **kwargs)


_SPECIAL = {
    "aten.batch_norm": _weight_norm,
    "aten.mean": _mean,
    "aten.var": _mean,
    "aten.std": _mean,
    "aten.var_mean": _mean,
    "aten.std_mean": _mean,
    "aten.amax": _extreme,
    "aten.amin": _extreme,
    "aten.max": _extreme,
    "aten.min": _extreme,
    "aten.softmax": _extreme,
    "aten.log_softmax": _extreme,
    "aten.logsumexp": _extreme,
    "aten.layer_norm": _layer_norm,
    "aten.rms_norm": _layer_norm,
    "aten.group_norm": _group_norm,
    "aten.scaled_dot_product_attention": _attention,
}
