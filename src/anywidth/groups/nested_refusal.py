"""Why a model cannot be nested: the layer that lets channels depend on later shells."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from torch import nn
from torch.fx import Node

from anywidth.core.errors import AnalysisError
from anywidth.groups.analysis import Analysis
from anywidth.groups.capture import Capture
from anywidth.groups.later_shells import channel_makers
from anywidth.groups.module_path import module_path
from anywidth.groups.propagate import Propagation, canonical_names

__all__ = ["refuse_inexact"]


def refuse_inexact(
    model: nn.Module,
    found: Propagation,
    captured: Capture,
    analysis: Analysis,
    inexact: set[Node],
    computed: Collection[Node],
) -> None:
    """Raise if channels are made from values that differ between widths.

    Args:
        model: The model.
        found: Labels of all tensors.
        captured: Its graph.
        analysis: Its groups.
        inexact: The nodes whose values differ.
        computed: The nodes whose values are tensors.

    Raises:
        AnalysisError: such channels exist; the message names the layer where values begin to differ, and a way out.
    """
    search = _Search(model, found, captured, analysis, inexact, computed)
    elastic = channel_makers(analysis, found.costs)
    for node in captured.program.graph.nodes:
        if node not in inexact or not any(search.weight_of(source) in elastic for source in node.all_input_nodes):
            continue
        cause = search.first_inexact(node)
        module, reader = module_path(cause), module_path(node) or "its forward"
        kind = type(model.get_submodule(module)).__name__
        where = f"{module or 'its forward'} ({kind}, {cause.target})"
        frozen = search.frozen_by(cause)
        if frozen is not None:
            why = f"makes channels that are frozen ({frozen}), which therefore read all shells"
            way = "Let them be narrowed"
        else:
            why = "lets channels depend on later shells"
            way = "Replace it by a layer that keeps channels apart, such as BatchNorm"
            if "norm" in f"{kind} {cause.target}".lower():
                way = f'Give nested_norm="shell", if it is a norm over nothing but channels. {way}'
        raise AnalysisError(
            f"{type(model).__name__} cannot be nested: {where} {why}, and {reader} reads its output. "
            f"{way}, or leave nested out"
        )


class _Search:
    """Follows a graph backwards, from a value that differs to its cause."""

    def __init__(
        self,
        model: nn.Module,
        found: Propagation,
        captured: Capture,
        analysis: Analysis,
        inexact: set[Node],
        computed: Collection[Node],
    ) -> None:
        self._found, self._analysis, self._inexact, self._computed = found, analysis, inexact, computed
        self._tensors, self._canonical = captured.tensors, canonical_names(model)

    def weight_of(self, node: Node) -> str | None:
        """The first name of the weight that a node is, or is computed from."""
        while node.op == "call_function" and len(node.all_input_nodes) == 1:
            node = node.all_input_nodes[0]
        return self._canonical.get(self._tensors.get(node.name, ""))

    def frozen_by(self, node: Node) -> str | None:
        """Why the channels that a node makes are frozen, if they are."""
        weights = {self.weight_of(source) for source in node.all_input_nodes}
        for cost in self._found.costs:
            axes = self._analysis.axes.get(str(cost.weight), ()) if cost.weight in weights else ()
            for dim in cost.out_dims if axes else ():
                axis = axes[dim]
                numbers = () if axis is None else np.unique(axis.group)
                reasons = [self._analysis.groups[number].frozen for number in numbers if number >= 0]
                if any(reasons):
                    return next(filter(None, reasons))
        return None

    def first_inexact(self, node: Node) -> Node:
        """The node behind this one where values begin to differ."""
        while True:
            before = next((source for source in self._tensors_before(node) if source in self._inexact), None)
            if before is None:
                return node
            node = before

    def _tensors_before(self, node: Node) -> Iterator[Node]:
        """The tensors that a node computes from; lists of tensors are looked through."""
        for source in node.all_input_nodes:
            if source.op == "call_function" and source not in self._computed:
                yield from self._tensors_before(source)
            else:
                yield source
