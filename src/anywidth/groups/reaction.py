"""A run of the full network before the proofs, to choose weights and inputs and to find dependencies on channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.fx import Node

from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors
from anywidth.groups.analysis import Analysis
from anywidth.groups.duplicate import duplicate
from anywidth.groups.observed import Key, Part, Reads, Site
from anywidth.groups.outputs import output_tensors
from anywidth.groups.propagate import Propagation
from anywidth.groups.stand_in import KINDS, Kind, cast, stand_in, varied
from anywidth.groups.tensor_stand_ins import stand_ins

__all__ = ["Reaction", "react"]

Surroundings = Callable[[torch.dtype], AbstractContextManager[object]]


@dataclass(frozen=True)
class Reaction:
    """How the full network reacts to weights and inputs.

    Attributes:
        inputs: The inputs for proofs.
        kind: The kind of weights for proofs.
        model: A copy with these weights, or None if no kind worked.
        sites: The operators that a forward calls as in the graph, by the weights that they read.
        moved: For every dimension of a parameter, whether a gradient reaches each of its positions.
    """

    inputs: Inputs
    kind: Kind
    model: nn.Module | None
    sites: Mapping[Key, list[Site]]
    moved: Mapping[str, list[npt.NDArray[np.bool_]]] = field(default_factory=dict)

    def comparable(self, key: Key, index: int) -> Site | None:
        """The operator of the graph for call `index` of an operator that reads these weights."""
        sites = self.sites.get(key, [])
        return sites[index] if index < len(sites) else None

    def moved_groups(self, analysis: Analysis, found: Propagation) -> set[str]:
        """Names of the groups whose channels change a compared value through a layer that reads them.

        The weights of that layer then have a gradient, which needs channels that are not zero and results that matter.
        For groups that no layer reads, any gradient counts.
        """
        made = {cost.weight: set(cost.out_dims) for cost in found.costs if cost.kind != "grouped conv"}
        reading: dict[bool, set[int]] = {True: set(), False: set()}
        moving: dict[bool, set[int]] = {True: set(), False: set()}
        for name, axes in analysis.axes.items():
            for dim, axis in enumerate(axes):
                if axis is None:
                    continue
                reads = name in made and dim not in made[name]
                reading[reads].update(axis.group.tolist())
                if name in self.moved:
                    moving[reads].update(axis.group[self.moved[name][dim]].tolist())
        moved = moving[True] | (moving[False] - reading[True])
        return {group.name for number, group in enumerate(analysis.groups) if number in moved}


@dataclass(frozen=True)
class _Run:
    kind: Kind
    inputs: Inputs
    unused: nn.Module
    model: nn.Module
    seen: dict[tuple[Key, int], list[Tensor]]
    outputs: list[Tensor]

    @property
    def finite(self) -> float:
        """The minimum share of finite numbers in a tensor."""
        tensors = [t for t in self._tensors() if t.numel()]
        return min((float(torch.isfinite(t).double().mean()) for t in tensors), default=1.0)

    def _tensors(self) -> list[Tensor]:
        found = [*self.outputs, *(tensor for tensors in self.seen.values() for tensor in tensors)]
        return [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in found]

    @torch.enable_grad()
    def moved(self, seed: int) -> dict[str, list[npt.NDArray[np.bool_]]]:
        """For every parameter, the positions along each dimension on which a compared value depends."""
        generator = torch.Generator().manual_seed(seed)
        loss = torch.zeros(())
        for tensor in self._tensors():
            if tensor.requires_grad:
                part = tensor[torch.isfinite(tensor)]
                if part.numel():
                    noise = torch.randn(part.shape, generator=generator).to(part.dtype)
                    loss = loss + (part / part.detach().abs().amax().clamp(min=1e-30) * noise).sum().float()
        if not loss.requires_grad:
            return {}
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        return {name: _nonzero(g) for name, g in zip(parameters, gradients, strict=True) if g is not None}


def _nonzero(gradient: Tensor) -> list[npt.NDArray[np.bool_]]:
    """Along each dimension, the positions that are not zero everywhere; for kernels, only along channels."""
    found = gradient != 0
    if found.ndim > 2:
        found = found.flatten(2).any(2)
    if found.ndim < 2:
        return [found.numpy()] * found.ndim
    along = [found.any(1).numpy(), found.any(0).numpy()]
    return along + [np.ones(size, bool) for size in gradient.shape[2:]]


def react(
    model: nn.Module,
    inputs: Inputs,
    sites: Mapping[Key, list[Site]],
    parts: Mapping[Node, Sequence[Part | None]],
    surroundings: Surroundings,
    *,
    dtype: torch.dtype,
    seed: int,
    gain: float,
    training: bool = False,
) -> Reaction:
    """Find weights and inputs with which a network's numbers stay finite, and its reaction to them.

    Constant inputs (such as zeros) are replaced by random ones if the network runs with them.

    Args:
        model: The network, which is not changed.
        inputs: The inputs of the call.
        sites: The operators of its graph that read weights.
        parts: The compared parts of their other tensors at full width.
        surroundings: Returns the context manager to run in, for a precision.
        dtype: The precision to run in.
        seed: Random seed.
        gain: Factor of random weights.
        training: Whether to run in training mode.
    """
    best: _Run | None = None
    for candidate in (varied(inputs, seed), inputs):
        for kind in KINDS if candidate is not None else ():
            assert candidate is not None
            try:
                with surroundings(dtype):
                    run = _full(model, candidate, kind, sites, parts, dtype, seed, gain, training)
            except Exception:  # numbers other than the user's may not be valid, and the proof reports the error
                break
            if best is None or run.finite > best.finite:
                best = run
            if best.finite == 1:
                break
        if best is not None:
            break
    if best is None:
        return Reaction(inputs, "random", None, {})
    called: dict[Key, list[Site]] = {}
    for key, each in sites.items():
        calls = [best.seen.get((key, site.index)) for site in each]
        same = all(found is not None and _fits(site, found, parts) for site, found in zip(each, calls, strict=True))
        if same and (key, len(each)) not in best.seen:
            called[key] = each
    try:
        moved = best.moved(seed)
    except RuntimeError:  # the forward overwrites a tensor that a gradient needs
        moved = {}
    return Reaction(best.inputs, best.kind, best.unused, called, moved)


def _fits(site: Site, found: Sequence[Tensor], parts: Mapping[Node, Sequence[Part | None]]) -> bool:
    """Whether a call has the same tensors as an operator of the graph."""
    return len(found) == len(parts[site.node])


def _full(
    model: nn.Module,
    inputs: Inputs,
    kind: Kind,
    sites: Mapping[Key, list[Site]],
    parts: Mapping[Node, Sequence[Part | None]],
    dtype: torch.dtype,
    seed: int,
    gain: float,
    training: bool,
) -> _Run:
    unused = stand_in(model, dtype, kind, seed=seed, gain=gain, training=training)
    copied = duplicate(unused, stand_ins(unused))  # a forward may fill caches, which narrowed copies must not inherit
    for parameter in copied.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    seen: dict[tuple[Key, int], list[Tensor]] = {}

    def note(key: Key, index: int, tensors: list[Tensor]) -> None:
        each = sites.get(key, [])
        wanted = parts[each[index].node] if index < len(each) else ()
        same = [part is None or part.shape == tensor.shape for part, tensor in zip(wanted, tensors, strict=False)]
        if len(wanted) == len(tensors) and all(same):
            seen[key, index] = [t if p is None else p.narrowed(t) for p, t in zip(wanted, tensors, strict=True)]
        else:
            seen[key, index] = []

    with torch.enable_grad(), Reads(named_tensors(copied), note):
        result = inputs.map(lambda tensor: cast(tensor, dtype)).call(copied)
    return _Run(kind, inputs, unused, copied, seen, output_tensors(result))
