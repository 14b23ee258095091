"""Runs for proofs: the network with some groups narrowed, and the masked full network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.fx import Node

from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors
from anywidth.groups.analysis import Analysis, Axis, ChannelGroup, KeptIndices
from anywidth.groups.capture import Capture
from anywidth.groups.compare import tensor_difference
from anywidth.groups.fixed_noise import FixedNoise, needs_fixed_noise
from anywidth.groups.grouped import AnyGroupedProduct
from anywidth.groups.masked import masks_of, run_masked
from anywidth.groups.narrow import narrow, take
from anywidth.groups.observed import Key, Reads, Site, find_sites, sites_by_key
from anywidth.groups.outputs import output_tensors
from anywidth.groups.propagate import Propagation, canonical_names
from anywidth.groups.reaction import Reaction, react
from anywidth.groups.reference import Received, Reference, ShapeError
from anywidth.groups.selection import Selection, Selector
from anywidth.groups.stand_in import cast, stand_in

__all__ = ["ProofRuns", "Weights"]

_GAIN = 0.5
"""Fast copies have smaller weights, so that an activation that saturates in one copy need not in the other."""

_REFERENCES = 12
"""Maximum number of cached runs of masked networks, for proofs with other integers."""


Weights = Literal["usual", "small", "own"]
"""Weights of the copies: random, smaller random ones, or the user's."""


class ProofRuns:
    """Runs copies of one model, narrowed or masked, with weights that do not hide errors.

    Args:
        model: The model, which is not changed.
        found: Labels of all tensors.
        capture: The graph that masked networks run.
        inputs: Inputs of one call.
        seed: Seed of the weights.
    """

    def __init__(self, model: nn.Module, found: Propagation, capture: Capture, inputs: Inputs, seed: int) -> None:
        self.model, self.found, self.capture, self.inputs, self.seed = model, found, capture, inputs, seed
        tensors = [*named_tensors(model).values(), *inputs.tensors()]
        self.quick = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
        self._copies: dict[torch.dtype, nn.Module] = {}
        self._references: dict[tuple[bytes, torch.dtype, Weights], Reference] = {}

    @cached_property
    def _sites(self) -> dict[Key, list[Site]]:
        return sites_by_key(find_sites(self.capture, canonical_names(self.model)))

    @cached_property
    def _selector(self) -> Selector:
        return Selector(self.found, self._sites)

    @cached_property
    def _reaction(self) -> Reaction:
        parts = self._selector.parts(np.ones(len(self.found.labels), bool))
        found = react(
            self.model,
            self.inputs,
            self._sites,
            parts,
            self._surroundings,
            dtype=self.quick,
            seed=self.seed,
            gain=_GAIN,
            training=self.capture.training,
        )
        if found.model is not None:
            self._copies[self.quick] = found.model
        return found

    @cached_property
    def _fixed(self) -> bool:
        return needs_fixed_noise(self.capture.program.graph)

    @cached_property
    def _grouped(self) -> bool:
        return any("grouped_mm" in str(node.target) for node in self.capture.program.graph.nodes)

    @contextmanager
    def _surroundings(self, dtype: torch.dtype, fixed: bool = False) -> Iterator[FixedNoise | None]:
        """Context manager in which both networks draw the same random numbers and use one precision.

        These modes slow down all operators, so they are active only if the graph needs them. Tensors that a forward
        creates without a type always have that precision.
        """
        with ExitStack() as stack:
            stack.enter_context(_created_in(dtype))
            if self._grouped:
                stack.enter_context(AnyGroupedProduct())
            yield stack.enter_context(FixedNoise(dtype)) if self._fixed or fixed else None

    def copy(self, dtype: torch.dtype, weights: Weights) -> nn.Module:
        """A copy of the model with these weights; the default one is the same for every call."""
        kind = self._reaction.kind
        make = partial(stand_in, self.model, dtype, training=self.capture.training)
        if weights == "own":
            return make("own", seed=self.seed)
        if weights == "small":
            return make("small" if kind == "random" else kind, seed=self.seed + 1)
        if dtype not in self._copies:
            self._copies[dtype] = make(kind, seed=self.seed, gain=_GAIN if dtype == self.quick else 1.0)
        return self._copies[dtype]

    def _cast(self, dtype: torch.dtype) -> Inputs:
        return self._reaction.inputs.map(lambda tensor: cast(tensor, dtype))

    def select(self, analysis: Analysis, blocks: npt.NDArray[np.int64]) -> Selection:
        """The network whose group i keeps its first `blocks[i]` blocks."""
        return self._selector.select(analysis, blocks)

    def places(self, analysis: Analysis) -> Axis:
        """The group and the block of every label; those of no group have group -1."""
        return self._selector.places(analysis)

    @torch.enable_grad()  # as in the capture, because a forward may ask; no weight needs a gradient
    def narrowed(
        self,
        selection: Selection,
        dtype: torch.dtype,
        weights: Weights,
        *,
        train: bool = False,
        active: list[str] | None = None,
    ) -> tuple[list[Tensor], Received]:
        """The outputs of a narrowed network, and the inputs of its operators.

        Args:
            selection: The network.
            dtype: The precision.
            weights: The weights.
            train: Run the forward in training mode as well.
            active: Receives the paths of the running modules, which takes time; after an error they remain.

        Raises:
            ShapeError: an operator received a different shape than the kept part of the full network's.
        """
        parts = selection.parts

        def bind(_: str, tensor: Tensor, kept: Sequence[KeptIndices]) -> Tensor:
            part = take(tensor, kept)
            return nn.Parameter(part, requires_grad=False) if isinstance(tensor, nn.Parameter) else part.clone()

        sub = narrow(self.copy(dtype, weights), selection.analysis, selection.blocks, bind)
        inputs, seen = self._cast(dtype), Received()

        def note(key: Key, index: int, tensors: list[Tensor]) -> None:
            site = self._reaction.comparable(key, index)
            if site is None:
                return
            for part, tensor in zip(parts[site.node], tensors, strict=True):
                if part is not None and part.shape != tensor.shape:
                    where = ", ".join(key)
                    raise ShapeError(
                        f"its narrowed network differs from the masked one: {where} meets shape "
                        f"{tuple(tensor.shape)}, not {part.shape}"
                    )
            seen[key, index] = [
                tensor if part is None else part.narrowed(tensor)
                for part, tensor in zip(parts[site.node], tensors, strict=True)
            ]

        with nullcontext() if active is None else _watched(sub, active):
            with self._surroundings(dtype), Reads(named_tensors(sub), note):
                result = output_tensors(inputs.call(sub))
            if train:
                with self._surroundings(dtype, fixed=True):
                    sub.train()
                    inputs.call(sub)
        return result, seen

    def reference(self, selection: Selection, dtype: torch.dtype, weights: Weights) -> Reference:
        """The inputs and outputs of the masked network, cached because they do not depend on integers."""
        kept, parts = selection.kept, selection.parts
        key = kept.tobytes(), dtype, weights
        if key not in self._references:
            noted: dict[tuple[Key, int], list[Tensor | None]] = {}

            def note(site: Site, tensors: list[Any]) -> None:
                pairs = zip(parts[site.node], tensors, strict=True)
                noted[site.key, site.index] = [None if part is None else part.full(tensor) for part, tensor in pairs]

            outputs, dtypes = self._masked(kept, dtype, weights, note)
            while len(self._references) >= _REFERENCES:
                del self._references[next(iter(self._references))]
            self._references[key] = Reference(outputs, dtypes, noted)
        return self._references[key]

    @torch.no_grad()
    def _masked(
        self,
        kept: npt.NDArray[np.bool_],
        dtype: torch.dtype,
        weights: Weights,
        note: Callable[[Site, list[Any]], None],
    ) -> tuple[list[Tensor], set[torch.dtype]]:
        sites = {site.node: site for sites in self._sites.values() for site in sites}

        def watch(node: Node, values: Mapping[Node, Any]) -> None:
            if node in sites:
                note(sites[node], [values[operand] for operand in sites[node].operands])

        masks = masks_of(self.found.label_arrays, kept)
        with self._surroundings(dtype) as noise:
            result, dtypes = run_masked(
                self.capture, named_tensors(self.copy(dtype, weights)), self._cast(dtype), masks, watch, noise
            )
        return output_tensors(result), dtypes

    def values(self, kept: npt.NDArray[np.bool_], dtype: torch.dtype, keep: Callable[[Node, Tensor], object]) -> None:
        """Run the masked network with the default weights, and call `keep` with a copy of the value of every node."""

        def watch(node: Node, values: Mapping[Node, Any]) -> None:
            value = values.get(node.prev)
            if isinstance(value, Tensor) and node.prev.op == "call_function":
                keep(node.prev, value.clone())

        with torch.no_grad(), self._surroundings(dtype) as noise:
            masks = masks_of(self.found.label_arrays, kept)
            tensors = named_tensors(self.copy(dtype, "usual"))
            run_masked(self.capture, tensors, self._cast(dtype), masks, watch, noise)

    def call(self, model: nn.Module, dtype: torch.dtype) -> Any:
        """The outputs of a copy for the inputs."""
        with self._surroundings(dtype):
            return self._cast(dtype).call(model)

    def moved(self, analysis: Analysis) -> set[str]:
        """Names of the groups that a compared value was seen to depend on."""
        return set(self._reaction.moved_groups(analysis, self.found))

    def changes(self, analysis: Analysis, group: ChannelGroup) -> bool:
        """Whether masking some channels of a group changes any compared value, in the full network."""
        half = self.select(analysis, analysis.blocks({group.name: group.blocks // 2 * group.block_size}))
        runs: list[list[Tensor]] = []
        for labels in (np.ones_like(half.kept), half.kept):
            noted: list[Tensor] = []

            def note(site: Site, tensors: list[Any], noted: list[Tensor] = noted) -> None:
                noted += [p.full(t) for p, t in zip(half.parts[site.node], tensors, strict=True) if p is not None]

            outputs, _ = self._masked(labels, self.quick, "usual", note)
            runs.append([*noted, *outputs])
        return any(tensor_difference(a, b, (1e-6, 1e-6)) is not None for a, b in zip(*runs, strict=True))


@contextmanager
def _created_in(dtype: torch.dtype) -> Iterator[None]:
    """Context manager in which tensors without a type are created in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _watched(model: nn.Module, active: list[str]) -> Iterator[None]:
    """Context manager that stores the paths of the running modules in `active`; after an error they remain."""
    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: active.append(path)))
        handles.append(module.register_forward_hook(lambda *_: active.__delitem__(-1)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
