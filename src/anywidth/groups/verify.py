"""Proof of channel groups: narrow them, run, and compare with the masked full network."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.groups.analysis import Analysis, ChannelGroup, Kept
from anywidth.groups.masked import masks_of, run_masked
from anywidth.groups.narrow import narrow, take
from anywidth.groups.propagate import Propagation
from anywidth.groups.trace import Capture, Inputs, module_modes, named_tensors

__all__ = ["Prover", "verify"]

_TOLERANCE = {torch.float64: 1e-7, torch.float32: 1e-2}


def verify(model: nn.Module, analysis: Analysis, found: Propagation, capture: Capture, inputs: Inputs) -> Analysis:
    """The analysis with every group frozen, reason given, whose narrowed network does not do what it should.

    All groups are narrowed together to random numbers of channels; where that fails, halves of them are tried
    until the groups at fault are found. Each proof compares outputs in double precision, on random weights, so
    that neither a zero-initialised layer nor a tiny layer scale can hide a difference.
    """
    prover = Prover(model, analysis, found, capture, inputs)
    elastic = list(analysis.elastic)
    faults = prover.faults(elastic)
    # Groups that fail only together show up in a last proof of all that is left.
    left = [group for group in elastic if group.name not in faults]
    while left and (joint := prover.prove(left)) is not None:
        worst = left[-1]
        faults[worst.name] = f"narrowed with others, {joint}"
        left = left[:-1]
    return analysis.freeze(faults)


@dataclass
class Prover:
    """Runs proofs of sets of groups on one model; nothing of the model is changed."""

    model: nn.Module
    analysis: Analysis
    found: Propagation
    capture: Capture
    inputs: Inputs
    seed: int = 0

    def __post_init__(self) -> None:
        self._number = {group.name: i for i, group in enumerate(self.analysis.groups)}
        self._dtype = torch.float64
        self._random = True
        self._prepare()

    def _prepare(self) -> None:
        with module_modes(self.model, False):
            self._copy = copy.deepcopy(self.model).cpu().to(self._dtype).eval()
        self._copy.requires_grad_(False)
        generator = torch.Generator().manual_seed(self.seed)
        _randomise(self._copy, generator)
        self._inputs = self.inputs.map(self._cast)

    def _cast(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu()
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def faults(self, groups: Sequence[ChannelGroup]) -> dict[str, str]:
        """Groups that fail when narrowed, with the reason; found by halving."""
        if not groups:
            return {}
        failure = self.prove(groups)
        if failure is None:
            return {}
        if len(groups) == 1:
            return {groups[0].name: failure}
        middle = len(groups) // 2
        return {**self.faults(groups[:middle]), **self.faults(groups[middle:])}

    def prove(self, groups: Sequence[ChannelGroup]) -> str | None:
        """None if the network with these groups narrowed at random equals the masked one, else what is wrong."""
        rng = np.random.default_rng(self.seed)
        channels = {}
        for group in groups:
            channels[group.name] = int(rng.integers(1, group.units)) * group.unit
        units = self.analysis.units(channels)
        try:
            got = self._narrowed(units)
        except Exception as error:
            if self._dtype == torch.float64 and "dtype" in str(error):  # a forward that insists on float32
                self._dtype = torch.float32
                self._prepare()
                return self.prove(groups)
            line = (str(error).strip().splitlines() or [""])[0]
            return f"its narrowed network does not run ({type(error).__name__}: {line[:160]})"
        wanted = self._masked(units)
        if self._random and not all(bool(torch.isfinite(out).all()) for out in wanted if out.is_floating_point()):
            # Random weights leave the domain of some function: prove with the weights that the user has.
            self._random = False
            self._copy.load_state_dict(self.model.state_dict())
            return self.prove(groups)
        return _difference(got, wanted, _TOLERANCE[self._dtype])

    @torch.no_grad()
    def _narrowed(self, units: npt.NDArray[np.int64]) -> list[Tensor]:
        def bind(_: str, tensor: Tensor, kept: Sequence[Kept]) -> Tensor:
            part = take(tensor, kept)
            return nn.Parameter(part, requires_grad=False) if isinstance(tensor, nn.Parameter) else part

        return _outputs(self._inputs.call(narrow(self._copy, self.analysis, units, bind)))

    @torch.no_grad()
    def _masked(self, units: npt.NDArray[np.int64]) -> list[Tensor]:
        kept = np.ones(len(self.found.labels), bool)
        for name, vectors in self.found.dims.items():
            axes = self.analysis.axes.get(name)
            for vector, axis in zip(vectors, axes or (), strict=False):
                if vector is not None and axis is not None:
                    kept[self.found.labels.find(vector)] &= axis.rank < units[axis.group]
        facets = {
            name: [self.found.labels.find(array) for array in arrays] for name, arrays in self.found.facets.items()
        }
        masks = masks_of(facets, kept)
        return _outputs(run_masked(self.capture, named_tensors(self._copy), self._inputs, masks))


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    for parameter in model.parameters():
        shape, dtype = parameter.shape, parameter.dtype
        if not parameter.is_floating_point():
            continue
        if parameter.ndim >= 2:
            spread = math.sqrt(2 / max(1, parameter[0].numel()))
            parameter.copy_(torch.randn(shape, generator=generator, dtype=dtype) * spread)
        else:
            parameter.copy_(torch.rand(shape, generator=generator, dtype=dtype) + 0.5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            assert module.running_var is not None
            shape = module.running_mean.shape
            dtype = module.running_mean.dtype
            module.running_mean.copy_(torch.randn(shape, generator=generator, dtype=dtype) * 0.1)
            module.running_var.copy_(torch.rand(shape, generator=generator, dtype=dtype) + 0.5)


def _outputs(result: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _difference(got: list[Tensor], wanted: list[Tensor], tolerance: float) -> str | None:
    if len(got) != len(wanted):
        return f"its narrowed network returns {len(got)} tensors, the full one {len(wanted)}"
    for a, b in zip(got, wanted, strict=True):
        if a.shape != b.shape:
            return f"its narrowed network returns shape {tuple(a.shape)}, the full one {tuple(b.shape)}"
        if not a.is_floating_point():
            continue
        scale = float(b.abs().max()) if b.numel() else 0.0
        error = float((a - b).abs().max()) if b.numel() else 0.0
        if not error <= tolerance * max(scale, 1e-30):
            return f"its narrowed network differs from the masked one by {error:.2g} of {scale:.2g}"
    return None
