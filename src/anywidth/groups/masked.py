"""The reference for proofs: the full network with dropped channels masked everywhere."""

from __future__ import annotations

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
from anywidth.groups.compacted import run_compacted
from anywidth.groups.fixed_noise import FixedNoise
from anywidth.groups.labels import Array, varying
from anywidth.groups.operators import NOTHING_KNOWN, Operator, find_operator

__all__ = ["masks_of", "run_masked"]


def run_masked(
    capture: Capture,
    tensors: Mapping[str, Tensor],
    inputs: Inputs,
    masks: Mapping[str, list[np.ndarray]],
    watch: Callable[[Node, Mapping[Node, Any]], None],
    noise: FixedNoise | None = None,
) -> tuple[Any, set[torch.dtype]]:
    """Outputs of a captured graph at full width with some channels masked, and the precisions of its computation.

    Sums ignore masked channels because they are zero. Means, norms, maxima and softmax over channels use only the kept
    ones.

    Args:
        capture: The graph.
        tensors: Parameters and buffers by name, at full width.
        inputs: The inputs of the call.
        masks: For values by node name: boolean arrays that broadcast to them, False where dropped.
        watch: Called before every node with the values computed so far. Dropped channels of these need not be zero.
        noise: The source of random numbers, as for the narrowed network.
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


def masks_of(label_arrays: Mapping[str, list[Array]], kept: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Boolean masks from label arrays, `kept` being indexed by label."""
    masks: dict[str, list[np.ndarray]] = {}
    for name, arrays in label_arrays.items():
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
        if "aten._assert" in str(n.target):  # the traced dtype, or the domain of values that may be masked
            return None
        if self.noise is not None:
            self.noise.masks = self.masks.get(n.name, [])
        self.watch(n, self.env)
        record = _record(n)
        source = n.all_input_nodes[0] if n.all_input_nodes else None
        masks = self.masks.get(source.name, []) if source is not None else []
        if record.masked is not None and masks:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            mask = masks[0]
            for other in masks[1:]:
                mask = mask & other
            result = record.masked(str(n.target), mask, args, kwargs, n)
        elif record.compacted(n) and any(self.masks.get(node.name) for node in n.all_input_nodes):
            result = run_compacted(n, self._value, self.masks, in_place=_base(n).endswith("_"))
        elif str(n.target) == "aten.view.default":  # masked values may have different strides from the traced ones
            result = torch.reshape(*self.fetch_args_kwargs_from_env(n)[0])
        else:
            result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point():
            self.dtypes.add(result.dtype)
        return result if n.op == "placeholder" else self._masked(n, result)

    def map_nodes_to_values(self, args: Any, n: Node) -> Any:
        """Arguments of a node; masks weights here instead of beforehand, so that few masked copies exist at once."""
        return map_arg(args, self._value)

    def _value(self, node: Node) -> Any:
        return self._masked(node, self.env[node]) if node.op == "placeholder" else self.env[node]

    def _masked(self, node: Node, value: Any) -> Any:
        if isinstance(value, Tensor) and not (_finite(node) and all(_indifferent(user, node) for user in node.users)):
            for mask in self.masks.get(node.name, []):
                if node in self.written:  # later writes to a copy would not reach the tensor that it is a view of
                    value.masked_fill_(~mask, 0)
                else:
                    value = torch.where(mask, value, torch.zeros((), dtype=value.dtype))
        return value


def _written_through(graph: Graph) -> set[Node]:
    """Views of computed values through which an in-place operator writes."""
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op == "call_function" and _base(node).endswith("_"):
            view = node.args[0]
            while isinstance(view, Node) and _record(view).view:
                found.add(view)
                view = view.args[0]
    return found


def _base(node: Node) -> str:
    return _without_overload(node.target) if node.op == "call_function" else ""


@cache
def _without_overload(target: Any) -> str:
    return str(target).rsplit(".", 1)[0]


def _record(node: Node) -> Operator:
    """The record of a node's operator, or an empty record."""
    return (find_operator(node.target) if node.op == "call_function" else None) or NOTHING_KNOWN


def _finite(node: Node) -> bool:
    """Whether an operator returns finite numbers even for dropped channels, so that a zero weight can remove them."""
    record = _record(node)
    return node.op == "placeholder" or record.by_weight or record.per_channel


def _indifferent(user: Node, source: Node) -> bool:
    """Whether an operator's results from dropped channels are dropped too, or multiplied by a masked weight."""
    record = _record(user)
    if record.by_weight:
        return source in user.args[:1] and source not in user.args[1:]
    return record.per_channel
