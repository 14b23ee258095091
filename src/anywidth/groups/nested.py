"""Proof that the widths of a nested network are prefixes of it, and where that ends: at the tail."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.fx import Node

from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors
from anywidth.core.tensors import tensors_in
from anywidth.groups.analysis import Analysis, Axis, KeptIndices
from anywidth.groups.capture import Capture, capture, without_collection
from anywidth.groups.compare import tensor_difference, tolerance_of
from anywidth.groups.duplicate import duplicate
from anywidth.groups.labels import Array, varying
from anywidth.groups.later_shells import (
    Bounds,
    LaterEntries,
    find_later_entries,
    reads_of,
)
from anywidth.groups.masked import masks_of
from anywidth.groups.module_path import module_path, module_paths
from anywidth.groups.nested_refusal import refuse_inexact
from anywidth.groups.nesting import Leaf, Nesting
from anywidth.groups.observed import part_of
from anywidth.groups.proof_runs import ProofRuns
from anywidth.groups.propagate import Propagation, canonical_names, propagate
from anywidth.groups.tensor_stand_ins import stand_ins
from anywidth.groups.untouched import untouched

__all__ = ["prove_nested"]


_SHAPE_READERS = frozenset(
    f"aten.{name}_like" for name in ("empty", "full", "ones", "rand", "randn", "zeros")
) | frozenset(f"aten.new_{name}" for name in ("empty", "full", "ones", "zeros"))
"""Operators that read nothing but the shape of their input."""

_NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
"""Values that depend on shapes, not on tensors."""


def prove_nested(model: nn.Module, inputs: Inputs, analysis: Analysis, bounds: Bounds) -> Nesting:
    """Prove that every width of a nested network is a prefix of it.

    The network runs with random weights whose entries for later shells are zero, once whole and once per shell with the
    channels of later shells masked. Every value has to be the same in both, up to the tail, which reads prefixes and
    makes no elastic channels.

    Args:
        model: The model.
        inputs: Example inputs.
        analysis: Its groups, proved.
        bounds: The shells; the last holds all channels.

    Raises:
        AnalysisError: a channel depends on channels of later shells; the message names the module.
    """
    with untouched(model), without_collection():
        twin = duplicate(model, stand_ins(model), analysis.written)
        captured = capture(twin, inputs, training=False)
        found = propagate(twin, [captured])
        later = find_later_entries(analysis, found.costs, bounds)
        proof = _Proof(twin, found, captured, inputs, analysis, bounds, later)
        inexact = proof.without_absorbed(proof.inexact())
        refuse_inexact(twin, found, captured, analysis, inexact, proof.computed)
        return Nesting(
            later=later, reads=reads_of(analysis, later), body=proof.body(inexact), tail=proof.read_by(inexact)
        )


class _Proof:
    """Runs the network whole and with masked shells."""

    def __init__(
        self,
        model: nn.Module,
        found: Propagation,
        captured: Capture,
        inputs: Inputs,
        analysis: Analysis,
        bounds: Bounds,
        later: Mapping[str, LaterEntries],
    ) -> None:
        self._model, self._found, self._graph, self._analysis = model, found, captured.program.graph, analysis
        self._tensors = captured.tensors
        self._runs = ProofRuns(model, found, captured, inputs, seed=0)
        self._kept = [self._runs.select(analysis, row).kept for row in bounds]
        self._later = later
        for dtype in (torch.float64, self._runs.quick):
            try:
                self._dtype, self._copy = dtype, self._zeroed(dtype)
                self._full = self._values(self._kept[-1])
                break
            except RuntimeError:  # a forward may insist on single precision
                if dtype == self._runs.quick:
                    raise

    def _zeroed(self, dtype: torch.dtype) -> nn.Module:
        """A copy with random weights whose entries for later shells are zero."""
        copied = self._runs.copy(dtype, "usual")
        for name, tensor in named_tensors(copied).items():
            if name in self._later:
                self._later[name].zero_(tensor.detach())
        return copied

    def _values(self, kept: npt.NDArray[np.bool_]) -> dict[Node, Tensor]:
        values: dict[Node, Tensor] = {}
        self._runs.values(kept, self._dtype, values.__setitem__)
        return values

    @property
    def computed(self) -> Collection[Node]:
        """The nodes whose values are tensors."""
        return self._full.keys()

    def inexact(self) -> set[Node]:
        """The nodes whose values at some width differ from those at full width, in the channels of that width.

        So do the nodes that read such values: where theirs are the same, a ReLU or a product with zero may hide the
        difference for these inputs. Only a difference that arises inside a norm per shell, which computes the
        statistics of all shells, may end there.
        """
        found: set[Node] = set()
        for kept in self._kept[:-1]:
            masks = masks_of(self._found.label_arrays, kept)
            for node, value in self._values(kept).items():
                wanted = self._full[node]
                for mask in masks.get(node.name, ()):
                    here = torch.from_numpy(mask)
                    wanted, value = wanted * here, value * here
                if tensor_difference(value, wanted, tolerance_of({self._dtype})) is not None:
                    found.add(node)
        return found | self._reached(found)

    def _reached(self, inexact: set[Node]) -> set[Node]:
        """The inexact nodes outside of norms per shell, and all nodes that their values or those of a norm reach."""
        reached: set[Node] = set()
        for node in self._graph.nodes:
            if _reads_shapes(node) or isinstance(node.meta.get("val"), _NUMBERS):
                continue
            inside = self._keeps_shells(node)
            own = node in inexact and not inside
            if own or any(s in reached or (s in inexact and not inside) for s in node.all_input_nodes):
                reached.add(node)
        return reached

    def _keeps_shells(self, node: Node) -> bool:
        """Whether a node belongs to a norm per shell."""
        return getattr(self._model.get_submodule(module_path(node)), "keeps_shells", False)

    def without_absorbed(self, inexact: set[Node]) -> set[Node]:
        """The inexact nodes without those inside norms per shell whose difference does not leave the norm.

        Such a norm computes the statistics of all shells, of which each channel takes its own.
        """
        found: set[Node] = set()
        for node in reversed(self._graph.nodes):
            if node not in inexact:
                continue
            if not self._keeps_shells(node) or any(user in found for user in node.users):
                found.add(node)
        return found

    def read_by(self, nodes: set[Node]) -> frozenset[str]:
        """First names of the parameters and buffers that some nodes read."""
        canonical = canonical_names(self._model)
        names = (self._tensors.get(source.name) for node in nodes for source in node.all_input_nodes)
        return frozenset(canonical[name] for name in names if name in canonical)

    @torch.no_grad()
    def body(self, inexact: set[Node]) -> dict[str, tuple[tuple[Leaf, ...], ...]]:
        """The outermost modules without inexact nodes, whose outputs are values of the graph."""
        inside: dict[str, list[Node]] = defaultdict(list)
        for node in self._graph.nodes:
            for path in module_paths(node):
                inside[path].append(node)
        exact = {path for path, nodes in inside.items() if path and inexact.isdisjoint(nodes)}
        outermost = [path for path in exact if exact.isdisjoint(_parents(path))]
        calls = self._outputs(outermost)
        bodies = [set(inside[path]) for path in outermost]
        found: dict[str, tuple[tuple[Leaf, ...], ...]] = {}
        for path in outermost:
            leaves = [[self._leaf(inside[path], bodies, *output) for output in call] for call in calls[path]]
            if leaves and all(leaf is not None for call in leaves for leaf in call):
                found[path] = tuple(tuple(leaf for leaf in call if leaf is not None) for call in leaves)
        return found

    def _outputs(self, paths: Sequence[str]) -> dict[str, list[list[tuple[Tensor, bool]]]]:
        """What modules return, call by call, and whether it is written to later."""
        returned: dict[str, list[list[tuple[Tensor, Tensor, int]]]] = defaultdict(list)

        def keep(path: str, output: Any) -> None:
            tensors = tensors_in(output)
            returned[path].append([(tensor.clone(), tensor, tensor._version) for tensor in tensors])

        modules = [(path, self._copy.get_submodule(path)) for path in paths]
        handles = [m.register_forward_hook(lambda *a, path=path: keep(path, a[2])) for path, m in modules]
        try:
            self._runs.call(self._copy, self._dtype)
        finally:
            for handle in handles:
                handle.remove()
        return {
            path: [[(before, after._version != version) for before, after, version in call] for call in found]
            for path, found in returned.items()
        } | {path: [] for path in paths if path not in returned}

    def _leaf(
        self, nodes: Sequence[Node], bodies: Sequence[set[Node]], tensor: Tensor, overwritten: bool
    ) -> Leaf | None:
        """What every width has of a tensor, told by the node of the graph that computes it; None if there is none."""
        for node in reversed(nodes):
            value = self._full.get(node)
            if value is None or value.shape != tensor.shape or value.dtype != tensor.dtype:
                continue
            if tensor_difference(tensor, value, tolerance_of({self._dtype})) is None:
                label_arrays = self._found.label_arrays.get(node.name, [])
                parts = [part_of(tensor.shape, label_arrays, kept) for kept in self._kept]
                kept = [part.kept for part in parts if part is not None]
                if len(kept) < len(parts):
                    return None
                needed = not all(any(user in each for each in bodies) for user in node.users)
                positions = tuple(tuple(map(_compact, each)) for each in kept)
                return Leaf(positions, self._axes(tensor.ndim, label_arrays), overwritten, needed)
        return None

    def _axes(self, ndim: int, label_arrays: Sequence[Array]) -> tuple[Axis | None, ...] | None:
        """The group and block at every position of every dimension; None if some position belongs to several."""
        places = self._runs.places(self._analysis)
        found: list[Axis | None] = [None] * ndim
        for label_array in label_arrays:
            for dim in varying(label_array):
                labels = np.moveaxis(label_array, dim, 0).reshape(label_array.shape[dim], -1)
                group, index = places.group[labels], places.index[labels]
                axis, before = Axis(group[:, 0], index[:, 0]), found[dim]
                constant = all((each == each[:, :1]).all() for each in (group, index))
                if not constant or (before is not None and not axis.same(before)):
                    return None
                found[dim] = axis
        return tuple(found)


def _compact(indices: Tensor | None) -> KeptIndices:
    if indices is None:
        return None
    leading = bool((indices == torch.arange(len(indices))).all())
    return len(indices) if leading else indices.numpy()


def _reads_shapes(node: Node) -> bool:
    """Whether an operator reads nothing but the shape of its input."""
    return str(node.target).partition(".default")[0] in _SHAPE_READERS


def _parents(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path
