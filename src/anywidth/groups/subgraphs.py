"""Inline regions that `torch.export` stores as subgraphs."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

__all__ = ["flatten_graph"]

_WRAPPERS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}
"""Operators that run a subgraph in a mode, with the position of the subgraph among their arguments."""


def flatten_graph(program: ExportedProgram) -> ExportedProgram:
    """The program with one flat graph, in which regions under `no_grad`, `autocast` and `vmap` are ordinary operators.

    Modes do not affect the analysis: proofs run in double precision, which autocast leaves alone.
    """
    if any(getattr(node.target, "__name__", "") == "_add_batch_dim" for node in program.graph.nodes):
        program = program.run_decompositions({})  # an empty table: `vmap` becomes batched operators, the rest stays
        _restore_linear(program.graph_module)
    _inline(program.graph_module)
    _drop_unused_views(program.graph_module)
    return program


_VIEWS = frozenset(("select", "slice", "narrow", "view", "reshape", "squeeze", "unsqueeze", "transpose", "permute"))


def _drop_unused_views(module: GraphModule) -> None:
    """Remove unused views, of which a forward only needed the shape; they are irrelevant for channels."""
    for node in reversed(module.graph.nodes):
        name = str(node.target).removeprefix("aten.").partition(".")[0]
        if node.op == "call_function" and name in _VIEWS and not node.users:
            module.graph.erase_node(node)


def _restore_linear(module: GraphModule) -> None:
    """Turn products with a transposed weight into linear layers, whose channels have names."""
    aten = torch.ops.aten
    for node in module.graph.nodes:
        if node.target is aten.matmul.default and getattr(node.args[1], "target", None) is aten.t.default:
            transposed = node.args[1]
            node.target, node.args = aten.linear.default, (node.args[0], transposed.args[0])
            if not transposed.users:
                module.graph.erase_node(transposed)


def _inline(module: GraphModule) -> None:
    """Copy the nodes of wrapped regions into the graph that calls them, the innermost first."""
    wrapped = [node for node in module.graph.nodes if _position(node) is not None]
    for node in wrapped:
        position = _position(node)
        assert position is not None
        holder, values = node.args[position], node.args[position + 1 :]
        assert isinstance(holder, Node)
        inner = module.get_submodule(str(holder.target))
        assert isinstance(inner, GraphModule)
        _inline(inner)
        result = _copy(module, node, inner, values, str(holder.target))
        for user in list(node.users):  # results are a tuple, from which they are picked
            user.replace_all_uses_with(result[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(node)
        if not holder.users:
            module.graph.erase_node(holder)


def _position(node: Node) -> int | None:
    return _WRAPPERS.get(getattr(node.target, "__name__", "")) if node.op == "call_function" else None


def _copy(module: GraphModule, node: Node, inner: GraphModule, values: tuple[Any, ...], prefix: str) -> Any:
    """Copy the nodes of a subgraph to its call; returns its results in terms of the copies."""
    copies: dict[Node, Any] = {}
    given = iter(values)
    outputs: Any = ()
    with module.graph.inserting_before(node):
        for each in inner.graph.nodes:
            if each.op == "placeholder":
                copies[each] = next(given)
            elif each.op == "output":
                outputs = map_arg(each.args[0], lambda source: copies[source])
            else:
                copies[each] = module.graph.node_copy(each, lambda source: copies[source])
                if each.op == "get_attr":  # such as a branch of `torch.cond`, which stays inside the submodule
                    copies[each].target = f"{prefix}.{each.target}"
    return outputs
