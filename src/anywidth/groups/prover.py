"""Proofs: the network with some groups narrowed against the masked full network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.fx import Node

from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors
from anywidth.groups.analysis import Analysis, ChannelGroup, Kept
from anywidth.groups.branches import Ways, compares, meeting_sizes
from anywidth.groups.capture import Capture
from anywidth.groups.compare import difference, tensor_difference, tolerance_of
from anywidth.groups.draws import NARROWEST, OWN, RANDOM, ROUNDED, channels_of, meeting, separating
from anywidth.groups.fixed_noise import FixedNoise, needs_fixed_noise
from anywidth.groups.grouped import AnyGroupedProduct
from anywidth.groups.masked import masks_of, run_masked
from anywidth.groups.narrow import narrow, take
from anywidth.groups.observed import Key, Part, Reads, Site, find_sites, part_of, sites_by_key
from anywidth.groups.outputs import output_tensors
from anywidth.groups.propagate import Propagation, canonical_names
from anywidth.groups.reaction import Reaction, react
from anywidth.groups.stand_in import cast, stand_in

__all__ = ["Failure", "Prover"]

_GAIN = 0.5
"""Quick copies have smaller weights, so that what saturates in one copy need not in the other."""

_SMALL = 20_000_000
"""Networks of fewer MACs are proved in more draws."""

_MEETINGS = 8
"""Sizes that channels of other networks are made to meet."""

_LARGE = 1_000_000_000
"""Networks of more MACs are proved in single precision, and in double precision where they fail."""

_MACS, _FEWEST = 8_000_000_000, 2
"""MACs to spend on the draws that separate groups, and the fewest such draws."""

_REFERENCES = 12
"""Runs of masked networks that are kept, for proofs with other integers."""

Parts = Mapping[Node, tuple[Part | None, ...]]
Seen = dict[tuple[Key, int], list[Tensor]]


@dataclass(frozen=True)
class Failure:
    """Why a proof failed, the path of the module that raised (None if results differ), and in which draw."""

    text: str
    module: str | None = None
    draw: int = 0


class Prover:
    """Runs proofs on copies of one model with weights that hide nothing.

    What every operator that reads weights receives is compared, not the outputs alone: a sigmoid or an argmax at the
    end hides nothing of what is before it. Draws run in single precision, which is several times as fast, and once
    more in double precision if they fail there, whose verdict counts; random draws of networks that are not large run
    in double precision at once.
    """

    def __init__(
        self,
        model: nn.Module,
        found: Propagation,
        capture: Capture,
        inputs: Inputs,
        *,
        training: bool = False,
        seed: int = 0,
    ) -> None:
        self.model, self.found, self.capture, self.inputs, self.seed = model, found, capture, inputs, seed
        self.training = training
        self._double, self._weights = True, "usual"
        tensors = [*named_tensors(model).values(), *inputs.tensors()]
        self._quick = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
        self._copies: dict[torch.dtype, nn.Module] = {}
        self._references: dict[tuple[bytes, torch.dtype, str], _Reference] = {}
        self._solved: tuple[Any, ...] | None = None

    @cached_property
    def _sites(self) -> dict[Key, list[Site]]:
        return sites_by_key(find_sites(self.capture, canonical_names(self.model)))

    @cached_property
    def _reaction(self) -> Reaction:
        parts = self._parts(np.ones(len(self.found.labels), bool))
        found = react(
            self.model,
            self.inputs,
            self._sites,
            parts,
            self._surroundings,
            dtype=self._quick,
            seed=self.seed,
            gain=_GAIN,
            training=self.capture.training,
        )
        if found.model is not None:
            self._copies[self._quick] = found.model
        return found

    @cached_property
    def _fixed(self) -> bool:
        return needs_fixed_noise(self.capture.program.graph)

    @cached_property
    def _grouped(self) -> bool:
        return any("grouped_mm" in str(node.target) for node in self.capture.program.graph.nodes)

    @contextmanager
    def _surroundings(self, dtype: torch.dtype, fixed: bool = False) -> Iterator[FixedNoise | None]:
        """Context manager in which both networks draw the same numbers, in one precision.

        The modes that see to it slow all operators down, so they are there only if the graph needs them. Tensors that a
        forward creates without a type are in that precision in any case.
        """
        with ExitStack() as stack:
            stack.enter_context(_created_in(dtype))
            if self._grouped:
                stack.enter_context(AnyGroupedProduct())
            yield stack.enter_context(FixedNoise(dtype)) if self._fixed or fixed else None

    def _copy(self, dtype: torch.dtype) -> nn.Module:
        kind = self._reaction.kind
        make = partial(stand_in, self.model, dtype, training=self.capture.training)
        if self._weights == "own":
            return make("own", seed=self.seed)
        if self._weights == "small":
            return make("small" if kind == "random" else kind, seed=self.seed + 1)
        if dtype not in self._copies:
            self._copies[dtype] = make(kind, seed=self.seed, gain=_GAIN if dtype == self._quick else 1.0)
        return self._copies[dtype]

    def _cast(self, dtype: torch.dtype) -> Inputs:
        return self._reaction.inputs.map(lambda tensor: cast(tensor, dtype))

    # -- proofs ----------------------------------------------------------------------------------------

    def fault(
        self, analysis: Analysis, groups: Sequence[ChannelGroup], failure: Failure
    ) -> tuple[ChannelGroup, Failure]:
        """The first of groups that together had `failure` with which they, from the first on, fail; by halving.

        It need not fail alone, so that groups which fail only together are found as well.
        """
        passes, fails = 0, len(groups)
        while fails - passes > 1:
            middle = (passes + fails) // 2
            found = self.prove(analysis, groups[:middle], draws=[failure.draw])
            if found is None:
                passes = middle
            else:
                fails, failure = middle, found
        return groups[fails - 1], failure

    def prove(self, analysis: Analysis, groups: Sequence[ChannelGroup], draws: Sequence[int] = ()) -> Failure | None:
        """None if the network with these groups narrowed equals the masked one in all draws, else what is wrong.

        All groups are narrowed at random, and as far as possible; and in some draws, each group is narrowed while any
        other is whole. Where an integer attribute may count one of several groups, the random draws are such that they
        can be told apart. The first of several groups are narrowed alike in the same draw, whatever follows.
        """
        failures = (self._prove(analysis, groups, draw) for draw in draws or self._draws(analysis, groups))
        return next((failure for failure in failures if failure is not None), None)

    def meet(self, analysis: Analysis) -> Failure | None:
        """None if the network is right where channels happen to be as many as something else, else what is wrong.

        A forward that compares sizes may take another way then. Whether it does is seen without computing; only then
        the numbers decide.
        """
        if not self.compares or not analysis.elastic:
            return None
        sizes = meeting_sizes(self.capture, analysis)
        if _macs(analysis) >= _SMALL:
            sizes = sizes[:_MEETINGS]
        for size in sizes if self.ways.usual is not None else ():
            draw = meeting(size)
            if self.ways.narrowed(analysis, self._units(analysis, analysis.elastic, draw)) != self.ways.usual:
                failure = self._prove(analysis, analysis.elastic, draw)
                if failure is not None:
                    return failure
        return None

    @cached_property
    def compares(self) -> bool:
        """Whether the forward may take another way for other sizes."""
        return compares(self.model)

    @cached_property
    def ways(self) -> Ways:
        """The functions that the forward calls."""
        return Ways(self.model, self.inputs)

    def silent(self, analysis: Analysis) -> list[ChannelGroup]:
        """The elastic groups that nothing compared depends on, so that a proof says nothing about them."""
        moved = self._reaction.moved_groups(analysis, self.found)
        doubtful = [group for group in analysis.elastic if group.name not in moved]
        return [group for group in doubtful if not self._changes(analysis, group)]

    def _units(self, analysis: Analysis, groups: Sequence[ChannelGroup], draw: int) -> npt.NDArray[np.int64]:
        return analysis.units(channels_of(groups, draw, self.seed))

    def _draws(self, analysis: Analysis, groups: Sequence[ChannelGroup]) -> list[int]:
        macs = _macs(analysis)
        small, most = macs < _SMALL, max(_FEWEST, _MACS // max(1, macs))
        draws = [*self._random_draws(analysis, groups), NARROWEST, *separating(len(groups), small=small, most=most)]
        return list(dict.fromkeys([*draws, *RANDOM[:3], *ROUNDED, OWN])) if small else draws

    def _random_draws(self, analysis: Analysis, groups: Sequence[ChannelGroup]) -> list[int]:
        """The fewest random draws that tell apart whatever integer attributes may count and any of them can."""
        attributes = [
            (path, name, attribute)
            for path, found in analysis.attributes.items()
            for name, attribute in found.items()
            if attribute.alternatives > 1
        ]
        told: list[set[tuple[str, str, int]]] = []
        for draw in RANDOM if attributes else ():
            units = self._units(analysis, groups, draw)
            told.append({(path, name, i) for path, name, a in attributes for i in a.told_apart(units)})
        draws: list[int] = []
        left: set[tuple[str, str, int]] = set().union(*told)
        while left:
            draws.append(max(RANDOM, key=lambda draw: len(told[draw] & left)))
            left -= told[draws[-1]]
        return draws or [0]

    def _prove(self, analysis: Analysis, groups: Sequence[ChannelGroup], draw: int) -> Failure | None:
        units = self._units(analysis, groups, draw)
        failure: Failure | None = None
        if draw == OWN:
            return self._attempt_with("own", analysis, units, torch.float64, draw) if self._double else None
        if draw not in RANDOM or not self._double or _macs(analysis) > _LARGE:
            failure = self._attempt(analysis, units, self._quick, draw)
            if failure is None or failure.module is not None or self._quick == torch.float64:
                return failure
        failure = self._attempt(analysis, units, torch.float64, draw) if self._double else failure
        if failure is None or failure.module is not None or self._double:
            return failure
        # In single precision, a softmax or a comparison may turn rounding into another result: small weights decide.
        return self._attempt_with("small", analysis, units, self._quick, draw)

    def _attempt_with(
        self, weights: str, analysis: Analysis, units: npt.NDArray[np.int64], dtype: torch.dtype, draw: int
    ) -> Failure | None:
        self._weights = weights
        try:
            return self._attempt(analysis, units, dtype, draw)
        finally:
            self._weights = "usual"

    def _attempt(
        self, analysis: Analysis, units: npt.NDArray[np.int64], dtype: torch.dtype, draw: int
    ) -> Failure | None:
        kept = self._kept(analysis, units)
        parts = self._parts(kept)
        active: list[str] = []
        try:
            got, seen = self._narrowed(analysis, units, dtype, parts, active, self.training and draw in RANDOM)
        except _ShapeError as error:  # what follows would hardly run, so the module at fault is repaired likewise
            return Failure(str(error), self._owner(active), draw)
        except Exception as error:
            text = str(error).strip()
            if dtype != self._quick and _needs_single(error):
                self._double = False
                return self._attempt(analysis, units, self._quick, draw)
            line = (text.splitlines() or [""])[0][:160]
            where = self._owner(active)
            return Failure(
                f"its narrowed network does not run ({type(error).__name__} in {where!r}: {line})", where, draw
            )
        try:
            wanted = self._reference(kept, dtype, parts)
        except RuntimeError as error:
            if dtype != self._quick and _needs_single(error):
                self._double = False
                return self._attempt(analysis, units, self._quick, draw)
            raise
        tolerance = tolerance_of({dtype, *wanted.dtypes})
        text = wanted.difference(seen, tolerance)
        if text is None:
            text = difference(got, wanted.outputs, tolerance, dtypes=wanted.dtypes == {dtype})
        return None if text is None else Failure(text, draw=draw)

    def _owner(self, active: Sequence[str]) -> str:
        """The innermost running module whose forward the user (or a model library) wrote."""
        for path in reversed(active):
            kind = type(self.model.get_submodule(path))
            if not kind.__module__.startswith("torch.nn") or issubclass(kind, nn.MultiheadAttention):
                return path
        return ""

    def _changes(self, analysis: Analysis, group: ChannelGroup) -> bool:
        """Whether masking some channels of a group changes anything that is compared, in the full network."""
        kept = self._kept(analysis, analysis.units({group.name: group.units // 2 * group.unit}))
        parts = self._parts(kept)
        runs: list[list[Tensor]] = []
        for labels in (np.ones_like(kept), kept):
            noted = _Noted(parts)
            outputs, _ = self._masked(labels, self._quick, noted.note)
            runs.append([*noted.tensors, *outputs])
        return any(tensor_difference(a, b, (1e-6, 1e-6)) is not None for a, b in zip(*runs, strict=True))

    # -- runs ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _narrowed(
        self,
        analysis: Analysis,
        units: npt.NDArray[np.int64],
        dtype: torch.dtype,
        parts: Parts,
        active: list[str],
        training: bool,
    ) -> tuple[list[Tensor], Seen]:
        def bind(_: str, tensor: Tensor, kept: Sequence[Kept]) -> Tensor:
            part = take(tensor, kept)
            return nn.Parameter(part, requires_grad=False) if isinstance(tensor, nn.Parameter) else part.clone()

        sub = narrow(self._copy(dtype), analysis, units, bind)
        inputs, seen = self._cast(dtype), Seen()

        def note(key: Key, index: int, tensors: list[Tensor]) -> None:
            site = self._reaction.comparable(key, index)
            if site is None:
                return
            for part, tensor in zip(parts[site.node], tensors, strict=True):
                if part is not None and part.shape != tensor.shape:
                    where = ", ".join(key)
                    raise _ShapeError(
                        f"its narrowed network differs from the masked one: {where} meets shape "
                        f"{tuple(tensor.shape)}, not {part.shape}"
                    )
            seen[key, index] = [
                tensor if part is None else part.narrowed(tensor)
                for part, tensor in zip(parts[site.node], tensors, strict=True)
            ]

        with _watched(sub, active):
            with self._surroundings(dtype), Reads(named_tensors(sub), note):
                result = output_tensors(inputs.call(sub))
            if training:
                with self._surroundings(dtype, fixed=True):
                    inputs.call(sub.train())
        return result, seen

    def _reference(self, kept: npt.NDArray[np.bool_], dtype: torch.dtype, parts: Parts) -> _Reference:
        """What the masked network receives and returns; kept for a while, as it does not depend on integers."""
        key = kept.tobytes(), dtype, self._weights
        if key not in self._references:
            noted: dict[tuple[Key, int], list[Tensor | None]] = {}

            def note(site: Site, tensors: list[Any]) -> None:
                pairs = zip(parts[site.node], tensors, strict=True)
                noted[site.key, site.index] = [None if part is None else part.full(tensor) for part, tensor in pairs]

            outputs, dtypes = self._masked(kept, dtype, note)
            while len(self._references) >= _REFERENCES:
                del self._references[next(iter(self._references))]
            self._references[key] = _Reference(outputs, dtypes, noted)
        return self._references[key]

    @torch.no_grad()
    def _masked(
        self, kept: npt.NDArray[np.bool_], dtype: torch.dtype, note: Callable[[Site, list[Any]], None]
    ) -> tuple[list[Tensor], set[torch.dtype]]:
        sites = {site.node: site for sites in self._sites.values() for site in sites}

        def watch(node: Node, values: Mapping[Node, Any]) -> None:
            if node in sites:
                note(sites[node], [values[operand] for operand in sites[node].operands])

        masks = masks_of(self.found.facets, kept)
        with self._surroundings(dtype) as noise:
            result, dtypes = run_masked(
                self.capture, named_tensors(self._copy(dtype)), self._cast(dtype), masks, watch, noise
            )
        return output_tensors(result), dtypes

    def _kept(self, analysis: Analysis, units: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Whether each label is kept."""
        if self._solved is None or self._solved[0] is not analysis.axes:  # ties change labels and axes together
            self._solved = (analysis.axes, *self._positions(analysis))
        _, roots, labels, groups, ranks = self._solved
        kept = np.ones(len(roots), bool)
        kept[labels[ranks >= units[groups]]] = False
        return kept[roots]

    def _positions(self, analysis: Analysis) -> tuple[npt.NDArray[Any], ...]:
        """Representatives of all labels; and label, group and rank of every position of every dimension."""
        labels = self.found.labels
        pairs = [
            (labels.find(vector), axis)
            for name, vectors in self.found.dims.items()
            for vector, axis in zip(vectors, analysis.axes.get(name, ()), strict=False)
            if vector is not None and axis is not None
        ]
        none = np.zeros(0, np.int64)
        return (
            labels.find(np.arange(len(labels))),
            np.concatenate([none, *(vector for vector, _ in pairs)]),
            np.concatenate([none, *(axis.group for _, axis in pairs)]),
            np.concatenate([none, *(axis.rank for _, axis in pairs)]),
        )

    def _parts(self, kept: npt.NDArray[np.bool_]) -> Parts:
        """What is compared of the tensors at every site."""
        found: dict[Node, tuple[Part | None, ...]] = {}
        for sites in self._sites.values():
            for site in sites:
                values = [operand.meta.get("val") for operand in site.operands]
                found[site.node] = tuple(
                    part_of(value.shape, self.found.facets.get(operand.name, []), kept)
                    if isinstance(value, Tensor) and not made
                    else None
                    for operand, made, value in zip(site.operands, site.made, values, strict=True)
                )
        return found


class _ShapeError(Exception):
    """An operator that reads weights received another shape than the kept part of the full network's."""


@dataclass(frozen=True)
class _Reference:
    """What the masked network returned, in which precisions it computed, and what its operators received."""

    outputs: list[Tensor]
    dtypes: set[torch.dtype]
    received: Mapping[tuple[Key, int], list[Tensor | None]]

    def difference(self, seen: Seen, tolerance: tuple[float, float]) -> str | None:
        """Where and by how much what a narrowed network's operators received first differs, or None."""
        for (key, index), found in seen.items():
            for ours, wanted in zip(found, self.received.get((key, index), []), strict=False):
                text = None if wanted is None else tensor_difference(ours, wanted, tolerance)
                if text is not None:
                    return (
                        f"its narrowed network differs from the masked one by {text} at the input of {', '.join(key)}"
                    )
        return None


class _Noted:
    """Keeps what is compared of the masked network."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.tensors: list[Tensor] = []

    def note(self, site: Site, tensors: list[Any]) -> None:
        """Keep the parts of one site."""
        self.tensors += [p.full(t) for p, t in zip(self.parts[site.node], tensors, strict=True) if p is not None]


@contextmanager
def _created_in(dtype: torch.dtype) -> Iterator[None]:
    """Context manager in which tensors without a type are created in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _macs(analysis: Analysis) -> int:
    return sum(operator.macs for operator in analysis.operators)


def _needs_single(error: Exception) -> bool:
    """Whether a forward insists on single precision."""
    text = str(error).lower()
    return "dtype" in text or ("type" in text and "float" in text) or "double" in text


@contextmanager
def _watched(model: nn.Module, active: list[str]) -> Iterator[None]:
    """Keeps the paths of the modules that run at the moment in `active`; after an error they stay there."""
    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, path=path: active.append(path)))
        handles.append(module.register_forward_hook(lambda *_: active.__delitem__(-1)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
