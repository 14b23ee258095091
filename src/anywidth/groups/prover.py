"""One proof: the network with some groups narrowed at random against the masked full network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.groups.analysis import Analysis, ChannelGroup, Kept
from anywidth.groups.duplicate import duplicate
from anywidth.groups.fixed_noise import FixedNoise
from anywidth.groups.grouped import AnyGroupedProduct
from anywidth.groups.masked import masks_of, run_masked
from anywidth.groups.narrow import narrow, take
from anywidth.groups.outputs import output_tensors
from anywidth.groups.propagate import Propagation
from anywidth.groups.trace import Capture, Inputs, named_tensors

__all__ = ["Failure", "Prover"]

_DRAWS = 8
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}


@dataclass(frozen=True)
class Failure:
    """Why a proof failed, the path of the module that raised (None if the outputs differ), and in which draw."""

    text: str
    module: str | None = None
    draw: int = 0


class Prover:
    """Runs proofs on copies of one model, in double precision and on random weights.

    Random weights, so that neither a zero-initialised layer nor a tiny layer scale can hide a difference.
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
        self._dtype, self._random = torch.float64, True
        self._prepare()

    def _prepare(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        tensors = {id(tensor): tensor for tensor in named_tensors(self.model).values()}
        made = {key: self._weight(tensor, generator) for key, tensor in tensors.items()}
        self._copy = duplicate(self.model, made).eval()
        if self._random:
            _randomise_statistics(self._copy, generator)
        self._inputs = self.inputs.map(self._cast)

    def _weight(self, tensor: Tensor, generator: torch.Generator) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            return self._cast(tensor).clone()
        if self._random and tensor.is_floating_point():
            return nn.Parameter(_random(tensor.shape, self._dtype, generator), requires_grad=False)
        return nn.Parameter(self._cast(tensor).clone(), requires_grad=False)

    def _cast(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach().cpu()
        if tensor.is_complex():
            return tensor.to(torch.complex128 if self._dtype == torch.float64 else torch.complex64)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

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
        """None if the network with these groups narrowed at random equals the masked one, else what is wrong.

        Where an integer attribute may count one of several groups, the draws are such that they can be told apart. The
        first of several groups are narrowed alike in the same draw, whatever follows.
        """
        failures = (self._prove(analysis, groups, draw) for draw in draws or self._draws(analysis, groups))
        return next((failure for failure in failures if failure is not None), None)

    def _units(self, analysis: Analysis, groups: Sequence[ChannelGroup], draw: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng(self.seed + draw)
        return analysis.units({g.name: int(rng.integers(_fewest(g), g.units)) * g.unit for g in groups})

    def _draws(self, analysis: Analysis, groups: Sequence[ChannelGroup]) -> list[int]:
        """The fewest of eight draws that tell apart whatever integer attributes may count and any of the eight can."""
        attributes = [
            (path, name, attribute)
            for path, found in analysis.attributes.items()
            for name, attribute in found.items()
            if attribute.alternatives > 1
        ]
        told: list[set[tuple[str, str, int]]] = []
        for draw in range(_DRAWS if attributes else 0):
            units = self._units(analysis, groups, draw)
            told.append({(path, name, i) for path, name, a in attributes for i in a.told_apart(units)})
        draws: list[int] = []
        left: set[tuple[str, str, int]] = set().union(*told)
        while left:
            draws.append(max(range(_DRAWS), key=lambda draw: len(told[draw] & left)))
            left -= told[draws[-1]]
        return draws or [0]

    def _prove(self, analysis: Analysis, groups: Sequence[ChannelGroup], draw: int) -> Failure | None:
        units = self._units(analysis, groups, draw)
        active: list[str] = []
        try:
            got = self._narrowed(analysis, units, active)
        except Exception as error:
            text = str(error).strip()
            if self._single(error):
                return self._prove(analysis, groups, draw)
            line = (text.splitlines() or [""])[0][:160]
            where = self._owner(active)
            return Failure(
                f"its narrowed network does not run ({type(error).__name__} in {where!r}: {line})", where, draw
            )
        try:
            wanted = self._masked(analysis, units)
        except RuntimeError as error:
            if self._single(error):
                return self._prove(analysis, groups, draw)
            raise
        if self._random and not all(bool(torch.isfinite(out).all()) for out in wanted if out.is_floating_point()):
            self._random = False  # they leave the domain of some function: prove with the weights that the user has
            self._prepare()
            return self._prove(analysis, groups, draw)
        text = _difference(got, wanted, _TOLERANCE[self._dtype])
        return None if text is None else Failure(text, draw=draw)

    def _single(self, error: Exception) -> bool:
        """Go on in single precision if a forward insists on it; False if that is not what is wrong."""
        text = str(error).lower()
        precision = "dtype" in text or ("type" in text and "float" in text) or "double" in text
        if self._dtype == torch.float32 or not precision:
            return False
        self._dtype = torch.float32
        self._prepare()
        return True

    def _owner(self, active: Sequence[str]) -> str:
        """The innermost running module whose forward the user (or a model library) wrote."""
        for path in reversed(active):
            kind = type(self._copy.get_submodule(path))
            if not kind.__module__.startswith("torch.nn") or issubclass(kind, nn.MultiheadAttention):
                return path
        return ""

    def _products(self) -> AbstractContextManager[object]:
        """A mode for grouped products, where there are any, because it slows all operators down."""
        grouped = any("grouped_mm" in str(node.target) for node in self.capture.program.graph.nodes)
        return AnyGroupedProduct() if grouped else nullcontext()

    @torch.no_grad()
    def _narrowed(self, analysis: Analysis, units: npt.NDArray[np.int64], active: list[str]) -> list[Tensor]:
        def bind(_: str, tensor: Tensor, kept: Sequence[Kept]) -> Tensor:
            part = take(tensor, kept)
            return nn.Parameter(part, requires_grad=False) if isinstance(tensor, nn.Parameter) else part.clone()

        sub = narrow(self._copy, analysis, units, bind)
        with _watched(sub, active), self._products():
            with FixedNoise(self._dtype):
                result = output_tensors(self._inputs.call(sub))
            if self.training:
                with FixedNoise(self._dtype):
                    self._inputs.call(sub.train())
        return result

    @torch.no_grad()
    def _masked(self, analysis: Analysis, units: npt.NDArray[np.int64]) -> list[Tensor]:
        labels = self.found.labels
        kept = np.ones(len(labels), bool)
        for name, vectors in self.found.dims.items():
            for vector, axis in zip(vectors, analysis.axes.get(name, ()), strict=False):
                if vector is not None and axis is not None:
                    kept[labels.find(vector)] &= axis.rank < units[axis.group]
        facets = {name: [labels.find(array) for array in arrays] for name, arrays in self.found.facets.items()}
        masks = masks_of(facets, kept)
        with FixedNoise(self._dtype) as noise:
            return output_tensors(run_masked(self.capture, named_tensors(self._copy), self._inputs, masks, noise))


def _fewest(group: ChannelGroup) -> int:
    """The fewest units to prove with: two channels where that is possible, because one alone has no variance."""
    return 1 if group.unit > 1 or group.units == 2 else 2


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


_PERIOD = 1_000_003
"""A prime, so that rows are alike only in tensors with more rows than this, or of longer rows."""


def _normal(number: int, generator: torch.Generator) -> Tensor:
    """Normal random numbers in single precision; beyond a period they repeat, because drawing millions takes long."""
    drawn = torch.randn(min(number, _PERIOD), generator=generator)
    return drawn.repeat(-(-number // drawn.numel()))[:number] if number else drawn


def _random(shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """A random weight: normal matrices that keep the size of what passes, vectors between 0.5 and 1.5."""
    if len(shape) < 2:
        return torch.rand(shape, generator=generator, dtype=dtype) + 0.5
    spread = math.sqrt(2 / max(1, shape[1:].numel()))
    return _normal(shape.numel(), generator).reshape(shape).to(dtype).mul_(spread)


@torch.no_grad()
def _randomise_statistics(model: nn.Module, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            assert module.running_var is not None
            shape, dtype = module.running_mean.shape, module.running_mean.dtype
            module.running_mean.copy_(torch.randn(shape, generator=generator, dtype=dtype) * 0.1)
            module.running_var.copy_(torch.rand(shape, generator=generator, dtype=dtype) + 0.5)


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
