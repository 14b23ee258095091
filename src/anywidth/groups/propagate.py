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
from anywidth.groups.flow import Cost, Flow, Number, Value
from anywidth.groups.labels import Array, Labels, varying
from anywidth.groups.rules import Call, find_rule
from anywidth.groups.samples import sources

__all__ = ["Propagation", "propagate"]

_FREE = (
    "getitem",
    "aten.sym_size",
    "aten._assert_tensor_metadata",
    "aten.view",
    "aten.contiguous",
    "aten.clone",
)
_KEEP_LOOSE = frozenset(
    f"aten.{name}"
    for name in (
        "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "expand", "repeat",
        "to", "clone", "contiguous", "slice", "select", "detach_", "detach", "lift_fresh_copy", "_to_copy", "t",
        "index", "sum", "mean", "cumsum", "bernoulli_", "flip",
    )
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Propagation:
    """The outcome: labels of every dimension of every tensor of the model, costs, and operators without a rule."""

    labels: Labels
    dims: dict[str, tuple[Array | None, ...]]
    costs: tuple[Cost, ...]
    uncounted: dict[str, int]
    unknown: dict[str, int]
    facets: dict[str, list[Array]]
    training_facets: dict[str, list[Array]]
    cuts: tuple[Array, ...]
    numbers: tuple[Number, ...]
    called: frozenset[str]


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer -> the first name of the same tensor, so that tied ones are one."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in named_tensors(model).items()}


def canonical_paths(model: nn.Module) -> dict[str, str]:
    """Every path of a module -> the first path of the same module, because it may be called by any of them."""
    first: dict[int, str] = {}
    return {path: first.setdefault(id(module), path) for path, module in model.named_modules(remove_duplicate=False)}


def propagate(model: nn.Module, captures: list[Capture]) -> Propagation:
    """Labels for all tensors of a model, merged over all its captured graphs.

    Costs and unknown operators are taken from the last capture, which should be the evaluation graph; labels by node
    are kept for it and for a training graph before it.
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
        facets = []
        for dim, vector in enumerate(vectors):
            if vector is not None:
                facets.append(vector.reshape([-1 if d == dim else 1 for d in range(len(shape))]))
        values[name] = Value(shape, facets, tensor=name)
    used: set[str] = set()
    costs: list[Cost] = []
    uncounted: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    node_facets: dict[str, list[Array]] = {}
    training_facets: dict[str, list[Array]] = {}
    flow = Flow(labels)
    for capture in captures:
        flow.costs = []
        uncounted, node_facets = Counter(), {}
        _walk(flow, capture, names, values, used, uncounted, unknown, node_facets)
        costs = flow.costs
        if capture.training:
            training_facets = node_facets
    flow.settle_splits()
    for name, vectors in dims.items():
        if name not in used:
            for vector in vectors:
                if vector is not None:
                    labels.freeze(vector, "not used in the forward")
    paths = canonical_paths(model)
    return Propagation(
        labels=labels,
        dims=dims,
        costs=tuple(costs),
        uncounted=dict(uncounted),
        unknown=dict(unknown),
        facets=node_facets,
        training_facets=training_facets,
        cuts=tuple(flow.cuts),
        numbers=tuple(replace(n, module=paths.get(n.module, n.module)) for n in flow.numbers),
        called=frozenset(paths.get(path, path) for capture in captures for path in _called(capture)),
    )


def _kernels(captures: list[Capture]) -> set[str]:
    """Parameters that are weights of convolutions, as they are or after some computation; only (out, in) are channels.

    Known beforehand, because such a computation may flatten a weight, which would mix channels with positions.
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
    """The placeholders that a value is computed from."""
    waiting, seen = [node], {node}
    while waiting:
        new = [source for source in waiting.pop().all_input_nodes if source not in seen]
        seen.update(new)
        waiting.extend(new)
    return {each for each in seen if each.op == "placeholder"}


def _walk(
    flow: Flow,
    capture: Capture,
    names: dict[str, str],
    values: dict[str, Value],
    used: set[str],
    uncounted: Counter[str],
    unknown: Counter[str],
    node_facets: dict[str, list[Array]],
) -> None:
    env: dict[Node, Any] = {}
    origins = sources(capture)

    def value_of(item: Any) -> Any:
        return env[item] if isinstance(item, Node) else item

    for node in capture.program.graph.nodes:
        if node.op == "placeholder":
            env[node] = _placeholder(node, capture, names, values, used)
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
            env[node] = _call(flow, node, args, kwargs, uncounted, unknown)  # type: ignore[arg-type]
        else:
            env[node] = None
        if isinstance(env.get(node), Value):
            node_facets[node.name] = [*env[node].facets, *_followed(env[node])]


def _followed(value: Value) -> list[Array]:
    """Label arrays of the dimensions of a value that may follow channels that they met."""
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
    if node.name in capture.constants:  # often a cache that the forward fills, so that it follows
        return Value(tuple(example.shape), origin="a constant of the model", loose=True)
    return Value(tuple(example.shape), origin="the network's input")


def _flatten(item: Any) -> list[Value]:
    if isinstance(item, Value):
        return [item]
    if isinstance(item, (list, tuple)):
        return [value for part in item for value in _flatten(part)]
    return []


def _call(
    flow: Flow, node: Node, args: Any, kwargs: Any, uncounted: Counter[str], unknown: Counter[str]
) -> Value | list[Value] | None:
    target = node.target
    overload = target if isinstance(target, torch._ops.OpOverload) else None
    name = str(target) if overload is not None else getattr(target, "__name__", str(target))
    base = name.rsplit(".", 1)[0] if overload is not None else name
    flow.operator, flow.module = name, _module_of(node)
    example = node.meta.get("val")
    examples = list(example) if isinstance(example, (list, tuple)) else [example]
    shapes = tuple(tuple(e.shape) for e in examples if isinstance(e, Tensor))
    call = Call(node, args, kwargs, shapes)
    found = find_rule([name, base, base.rstrip("_")])
    if found is None and overload is not None and torch.Tag.pointwise in overload.tags:
        found = find_rule(["aten.where"])
    counted = len(flow.costs)
    if found is None:
        reason = f"no rule for {flow.where}"
        if call.values():
            unknown[base] += 1
        for value in call.values():
            flow.freeze(value, reason)
        result: Value | list[Value] | None = None
    elif not shapes:
        result = None
    else:
        try:
            result = found(flow, call)
        except (ValueError, IndexError, TypeError) as error:  # a form of the operator that its rule does not foresee
            for value in call.values():
                flow.freeze(value, f"the rule for {flow.where} does not take this call ({first_line(error)})")
            result = None
    if not any(cost.macs for cost in flow.costs[counted:]) and base not in _FREE and shapes:
        uncounted[base] += 1
    if isinstance(example, (list, tuple)):
        pieces = result if isinstance(result, list) else [Value(shape) for shape in shapes]
        filled = iter(pieces)
        return [next(filled) if isinstance(e, Tensor) else Value(()) for e in examples]
    if isinstance(result, list):
        result = result[0]
    if result is None:
        return Value(shapes[0]) if shapes else None
    result.facets = [facet for facet in result.facets if varying(facet)]
    result.made_from = _made_from(call.values())
    if base in _KEEP_LOOSE and call.values()[0].loose:
        result.loose = True
    return result


def _made_from(values: list[Value]) -> Value | None:
    """The largest parameter among what values are computed from; None if one of them is computed from more."""
    sources = [value.source for value in values]
    known = [source for source in sources if source is not None]
    return max(known, key=lambda source: math.prod(source.shape)) if known and len(known) == len(sources) else None


def _module_of(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack.values())[-1][0] if stack else ""


def _called(capture: Capture) -> set[str]:
    """Paths of the modules whose forward was called."""
    stacks = (node.meta.get("nn_module_stack") or {} for node in capture.program.graph.nodes)
    return {entry[0] for stack in stacks for entry in stack.values()}
