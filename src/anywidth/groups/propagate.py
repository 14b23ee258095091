"""Propagation of channel labels through captured graphs."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_aggregate

from anywidth.core.errors import first_line
from anywidth.core.modules import named_tensors
from anywidth.groups.capture import Capture
from anywidth.groups.counts import Cost, SizeUse
from anywidth.groups.flow import Flow
from anywidth.groups.labels import Array, Labels, varying
from anywidth.groups.module_path import module_path, module_paths
from anywidth.groups.operators import Call, find_operator
from anywidth.groups.samples import sources
from anywidth.groups.value import Value

__all__ = ["Propagation", "propagate"]


@dataclass(frozen=True, kw_only=True)
class Propagation:
    """The result: labels of every dimension of every tensor of the model, costs, and operators without a rule."""

    labels: Labels
    dims: dict[str, tuple[Array | None, ...]]
    costs: tuple[Cost, ...]
    uncounted: dict[str, int]
    unknown: dict[str, int]
    label_arrays: dict[str, list[Array]]
    training_label_arrays: dict[str, list[Array]]
    split_points: tuple[Array, ...]
    size_uses: tuple[SizeUse, ...]
    called: frozenset[str]


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Map from every name of a parameter or buffer to the first name of the same tensor, to identify tied tensors."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named_tensors(model).items()}


def canonical_paths(model: nn.Module) -> dict[str, str]:
    """Map from every path of a module to the first path of the same module, which may be called by any of them."""
    first: dict[int, str] = {}
    return {path: first.setdefault(id(module), path) for path, module in model.named_modules(remove_duplicate=False)}


def propagate(model: nn.Module, captures: list[Capture]) -> Propagation:
    """Labels of all tensors of a model, merged over its captured graphs.

    Costs and unknown operators come from the last capture, which should be the evaluation graph. Labels by node are
    stored for it and for a training graph before it.
    """
    labels = Labels()
    names = canonical_names(model)
    tensors = named_tensors(model)
    dims: dict[str, tuple[Array | None, ...]] = {}
    values: dict[str, Value] = {}
    kernels = _kernels(captures)
    for name in dict.fromkeys(names.values()):
        shape = tuple(tensors[name].shape)
        channels = 2 if name in kernels else len(shape)
        vectors = tuple(labels.fresh(size) if size > 1 and d < channels else None for d, size in enumerate(shape))
        dims[name] = vectors
        label_arrays = []
        for dim, vector in enumerate(vectors):
            if vector is not None:
                label_arrays.append(vector.reshape([-1 if d == dim else 1 for d in range(len(shape))]))
        values[name] = Value(shape, label_arrays, tensor=name)
    costs: list[Cost] = []
    training_label_arrays: dict[str, list[Array]] = {}
    flow = Flow(labels)
    for capture in captures:
        flow.costs, flow.uncounted, flow.node_label_arrays = [], Counter(), {}
        _walk(flow, capture, names, values)
        costs = flow.costs
        if capture.training:
            training_label_arrays = flow.node_label_arrays
    flow.settle_splits()
    for name, vectors in dims.items():
        if name not in flow.used:
            for vector in vectors:
                if vector is not None:
                    labels.freeze(vector, "not used in the forward")
    paths = canonical_paths(model)
    return Propagation(
        labels=labels,
        dims=dims,
        costs=tuple(costs),
        uncounted=dict(flow.uncounted),
        unknown=dict(flow.unknown),
        label_arrays=flow.node_label_arrays,
        training_label_arrays=training_label_arrays,
        split_points=tuple(flow.split_points),
        size_uses=tuple(replace(n, module=paths.get(n.module, n.module)) for n in flow.size_uses),
        called=frozenset(paths.get(path, path) for capture in captures for path in _called(capture)),
    )


def _kernels(captures: list[Capture]) -> set[str]:
    """Parameters that are weights of convolutions, directly or after a computation; only (out, in) are channels.

    Determined beforehand, because such a computation may flatten a weight, which would mix channels with positions.
    """
    found: set[str] = set()
    for capture in captures:
        for node in capture.program.graph.nodes:
            if "conv" not in str(node.target) or "conv_tbc" in str(node.target) or node.op != "call_function":
                continue
            weight = node.args[1]
            ends = _placeholders_behind(weight)
            if all(end.name in capture.tensors for end in ends):
                shape = weight.meta["val"].shape
                found.update(capture.tensors[end.name] for end in ends if end.meta["val"].shape == shape)
    return found


def _placeholders_behind(node: Node) -> set[Node]:
    """The placeholders from which a value is computed."""
    waiting, seen = [node], {node}
    while waiting:
        new = [source for source in waiting.pop().all_input_nodes if source not in seen]
        seen.update(new)
        waiting.extend(new)
    return {each for each in seen if each.op == "placeholder"}


def _walk(flow: Flow, capture: Capture, names: dict[str, str], values: dict[str, Value]) -> None:
    env: dict[Node, Any] = {}
    origins = sources(capture)

    def value_of(item: Any) -> Any:
        return env[item] if isinstance(item, Node) else item

    for node in capture.program.graph.nodes:
        if node.op == "placeholder":
            env[node] = _placeholder(node, capture, names, values, flow.used)
        elif node.op == "output":
            flow.operator, flow.module = "output", ""
            for source in node.all_input_nodes:
                for value in _flatten(env[source]):
                    if value.tensor is None:
                        flow.freeze(value, "reaches the output of the network")
        elif node.op == "call_function":
            args = map_aggregate(node.args, value_of)
            kwargs = map_aggregate(node.kwargs, value_of)
            flow.inputs, flow.repeats = origins[node]
            env[node] = _call(flow, node, args, kwargs)  # type: ignore[arg-type]
        else:
            env[node] = None
        if isinstance(env.get(node), Value):
            flow.node_label_arrays[node.name] = [*env[node].label_arrays, *_followed(env[node])]


def _followed(value: Value) -> list[Array]:
    """Label arrays of the dimensions of a value that may follow the channels that they met."""
    ndim = len(value.shape)
    return [vector.reshape([-1 if d == dim else 1 for d in range(ndim)]) for dim, vector in value.follows.items()]


def _placeholder(
    node: Node, capture: Capture, names: dict[str, str], values: dict[str, Value], used: set[str]
) -> Value | None:
    example = node.meta.get("val")
    if node.name in capture.tensors:
        name = names[capture.tensors[node.name]]
        if node.users:
            used.add(name)
        return values[name]
    if not isinstance(example, Tensor):
        return None
    if node.name in capture.constants:  # often a cache that the forward fills, so it may follow
        return Value(tuple(example.shape), origin="a constant of the model", shape_follows=True)
    return Value(tuple(example.shape), origin="the network's input")


def _flatten(item: Any) -> list[Value]:
    if isinstance(item, Value):
        return [item]
    if isinstance(item, (list, tuple)):
        return [value for part in item for value in _flatten(part)]
    return []


def _call(flow: Flow, node: Node, args: Any, kwargs: Any) -> Value | list[Value] | None:
    target = node.target
    overload = target if isinstance(target, torch._ops.OpOverload) else None
    name = str(target) if overload is not None else getattr(target, "__name__", str(target))
    base = name.rsplit(".", 1)[0] if overload is not None else name
    flow.operator, flow.module = name, module_path(node)
    example = node.meta.get("val")
    examples = list(example) if isinstance(example, (list, tuple)) else [example]
    shapes = tuple(tuple(e.shape) for e in examples if isinstance(e, Tensor))
    call = Call(node, args, kwargs, shapes)
    record = find_operator(target)
    counted = len(flow.costs)
    if record is None:
        reason = f"no rule for {flow.where}"
        if call.values():
            flow.unknown[base] += 1
        for value in call.values():
            flow.freeze(value, reason)
        result: Value | list[Value] | None = None
    elif not shapes:
        result = None
    else:
        try:
            result = record.labels(flow, call)
        except (ValueError, IndexError, TypeError) as error:  # a form of the operator that its rule does not support
            for value in call.values():
                flow.freeze(value, f"the rule for {flow.where} does not support this call ({first_line(error)})")
            result = None
    if not any(cost.macs for cost in flow.costs[counted:]) and shapes and not (record is not None and record.free):
        flow.uncounted[base] += 1
    if isinstance(example, (list, tuple)):
        pieces = result if isinstance(result, list) else [Value(shape) for shape in shapes]
        filled = iter(pieces)
        return [next(filled) if isinstance(e, Tensor) else Value(()) for e in examples]
    if isinstance(result, list):
        result = result[0]
    if result is None:
        return Value(shapes[0]) if shapes else None
    result.label_arrays = [label_array for label_array in result.label_arrays if varying(label_array)]
    result.made_from = _made_from(call.values())
    if record is not None and record.shape_follows and call.values()[0].shape_follows:
        result.shape_follows = True
    return result


def _made_from(values: list[Value]) -> Value | None:
    """The largest parameter from which values are computed; None if one is computed from anything else."""
    sources = [value.source for value in values]
    known = [source for source in sources if source is not None]
    return max(known, key=lambda source: math.prod(source.shape)) if known and len(known) == len(sources) else None


def _called(capture: Capture) -> set[str]:
    """Paths of the modules whose forward was called."""
    return {path for node in capture.program.graph.nodes for path in module_paths(node)}
