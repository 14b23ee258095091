"""The part of a network that elastic channels are made from."""

from __future__ import annotations

from torch import nn
from torch.fx import Node

from anywidth.core.inputs import Inputs
from anywidth.groups.analysis import Analysis
from anywidth.groups.capture import capture, without_collection
from anywidth.groups.duplicate import duplicate
from anywidth.groups.later_shells import channel_makers
from anywidth.groups.module_path import module_paths
from anywidth.groups.propagate import canonical_names, propagate
from anywidth.groups.tensor_stand_ins import stand_ins
from anywidth.groups.untouched import untouched

__all__ = ["modules_before_channels"]


def modules_before_channels(model: nn.Module, inputs: Inputs, analysis: Analysis) -> frozenset[str]:
    """Paths of the modules whose results reach a weight that makes elastic channels; the others are in the tail.

    Args:
        model: The model.
        inputs: Example inputs.
        analysis: Its groups.
    """
    with untouched(model), without_collection():
        twin = duplicate(model, stand_ins(model), analysis.written)
        captured = capture(twin, inputs, training=False)
        found = propagate(twin, [captured])
    makers = channel_makers(analysis, found.costs)
    canonical = canonical_names(twin)
    weights = {
        node: canonical.get(captured.tensors[node.name])
        for node in captured.program.graph.nodes
        if node.op == "placeholder" and node.name in captured.tensors
    }
    of_weights = _computed_from(weights, captured.program.graph.nodes)
    before: set[Node] = set()
    for node in reversed(captured.program.graph.nodes):
        for user in node.users:
            makes = any(of_weights.get(source) in makers for source in user.all_input_nodes if source is not node)
            if user in before or (makes and node not in of_weights):
                before.add(node)
    return frozenset(path for node in before for path in module_paths(node) if path)


def _computed_from(weights: dict[Node, str | None], nodes: object) -> dict[Node, str | None]:
    """The weights, and the nodes that are computed from one of them alone, such as its transpose."""
    found = dict(weights)
    for node in nodes:  # type: ignore[attr-defined]
        if node.op == "call_function" and len(node.all_input_nodes) == 1 and node.all_input_nodes[0] in found:
            found[node] = found[node.all_input_nodes[0]]
    return found
