"""Inputs of other sizes, which show what integers count that the example does not depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from anywidth.core.errors import AnalysisError
from anywidth.core.inputs import Inputs
from anywidth.core.tensors import tensors_in
from anywidth.groups.analysis import Analysis, KeptIndices
from anywidth.groups.capture import capture, without_collection
from anywidth.groups.inputs_to_try import MOST_PROOFS, inputs_with_other_calls, other_inputs
from anywidth.groups.meanings import Integer, doubtful, follow, following, integers, leave_alone
from anywidth.groups.narrow import narrow, take
from anywidth.groups.propagate import propagate
from anywidth.groups.prover import Prover

__all__ = ["reconcile", "try_other_inputs"]


def try_other_inputs(model: nn.Module, analysis: Analysis, prover: Prover, inputs: Inputs) -> Analysis:
    """A copy of the analysis in which integers that the example does not determine are also right for other inputs.

    The network is narrowed twice: with doubtful integers left alone, and with them following channels. If the full
    network accepts some other inputs and the two differ for them, or the narrowed network fails or returns other
    shapes, a second proof with those inputs decides. It also decides if the full network calls other functions for
    them. Groups that pass in neither way are frozen.
    """
    proofs = 0
    for other in inputs_with_other_calls(model, prover, inputs):
        analysis = _decide(model, analysis, prover, other)
    settled: set[Integer] = set()
    runs = _Runs(model, analysis, settled)
    for other in other_inputs(inputs, runs.values()):
        if proofs < MOST_PROOFS and runs.suspect(other):
            proofs += 1
            settled |= runs.told_apart(other)
            analysis = _decide(model, analysis, prover, other)
            runs = _Runs(model, analysis, settled)
    return analysis


def _decide(model: nn.Module, analysis: Analysis, prover: Prover, inputs: Inputs) -> Analysis:
    """A copy of the analysis that is also right for these inputs."""
    try:
        with without_collection():
            second = capture(model, inputs, training=False)
            found = propagate(model, [second])
    except AnalysisError:
        return analysis  # it runs but cannot be captured
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs.tensors())
    return reconcile(model, analysis, prover, Prover(model, found, second, inputs), f"for inputs of shape {shapes}")


def reconcile(
    model: nn.Module, analysis: Analysis, prover: Prover, other: Prover, where: str, draws: Sequence[int] = ()
) -> Analysis:
    """The choice of integers that passes two proofs; otherwise the groups that fail the second one are frozen.

    Args:
        model: The model.
        analysis: The analysis that passes the first proof.
        prover: The first proof.
        other: The second one.
        where: The condition of the second proof, for the frozen reason.
        draws: The draws of the second proof, by default as for the first.
    """
    failure = other.prove(analysis, analysis.elastic, draws=draws)
    if failure is None:
        return analysis
    for trial in _trials(model, analysis):
        if other.prove(trial, trial.elastic, draws=[failure.draw]) is None:
            passes = other.prove(trial, trial.elastic, draws=draws) is None
            if passes and prover.prove(trial, trial.elastic) is None:
                return trial
    while failure is not None and analysis.elastic:
        group, failure = other.fault(analysis, analysis.elastic, failure)
        analysis = analysis.freeze({group.name: f"{where}, {failure.text}"})
        failure = other.prove(analysis, analysis.elastic, draws=draws) if analysis.elastic else None
    return analysis


def _trials(model: nn.Module, analysis: Analysis) -> Iterator[Analysis]:
    """Copies with one doubtful integer, or all of them, chosen differently."""
    unsure = doubtful(model, analysis)
    for integer in unsure:
        yield follow(model, analysis, integer)
    for integer in following(model, analysis):
        yield leave_alone(model, analysis, integer)
    yield _all_follow(model, analysis, unsure)


def _all_follow(model: nn.Module, analysis: Analysis, unsure: Sequence[Integer]) -> Analysis:
    for integer in unsure:
        analysis = follow(model, analysis, integer)
    return analysis


class _Runs:
    """The full network and two narrowed ones, with doubtful integers left alone and following channels.

    Integers that other inputs have already decided are not doubtful.
    """

    def __init__(self, model: nn.Module, analysis: Analysis, settled: Set[Integer]) -> None:
        self.model, self.analysis = model, analysis
        self.unsure = [integer for integer in doubtful(model, analysis) if integer not in settled]
        self.changed = _all_follow(model, analysis, self.unsure)
        self.blocks = analysis.blocks({g.name: max(1, g.blocks // 2) * g.block_size for g in analysis.elastic})

    def values(self) -> list[tuple[int, int]]:
        """The values of doubtful and following integers at full width and narrowed."""
        wanted = {*self.unsure, *following(self.model, self.analysis)}
        found: dict[tuple[int, int], None] = {}
        for integer, places in integers(self.model, self.changed).items():
            for _, attribute in places if integer in wanted else ():
                full, narrowed = attribute.full(integer.index), attribute.values(self.blocks)[integer.index]
                if full != narrowed:
                    found[full, narrowed] = None
        return list(found)

    @cached_property
    def full(self) -> nn.Module:
        return self._copy(self.analysis, self.analysis.blocks({}))

    @cached_property
    def narrowed(self) -> nn.Module:
        return self._copy(self.analysis, self.blocks)

    @cached_property
    def following(self) -> nn.Module:
        return self._copy(self.changed, self.blocks)

    def suspect(self, inputs: Inputs) -> bool:
        """Whether the full network accepts these inputs and the narrowed one may be wrong for them."""
        whole = _run(self.full, inputs)
        if whole is None:
            return False
        part = _run(self.narrowed, inputs)
        if part is None or [out.shape for out in part] != [out.shape for out in whole]:
            return True
        if not self.unsure:
            return False
        other = _run(self.following, inputs)
        return other is None or not _same(part, other)

    def told_apart(self, inputs: Inputs) -> set[Integer]:
        """The doubtful integers that individually make a difference for these inputs."""
        part = _run(self.narrowed, inputs)
        if len(self.unsure) < 2 or part is None:
            return set(self.unsure)
        found: set[Integer] = set()
        for integer in self.unsure:
            other = _run(self._copy(follow(self.model, self.analysis, integer), self.blocks), inputs)
            if other is None or not _same(part, other):
                found.add(integer)
        return found

    def _copy(self, analysis: Analysis, blocks: npt.NDArray[np.int64]) -> nn.Module:
        """A narrowed copy with perturbed weights, so that a layer of zeros does not hide a difference."""
        generator = torch.Generator().manual_seed(0)

        def bind(_: str, tensor: Tensor, kept: Sequence[KeptIndices]) -> Tensor:
            part = take(tensor.detach().cpu(), kept).clone()
            if not isinstance(tensor, nn.Parameter):
                return part
            if part.is_floating_point():
                noise = torch.rand(max(1, min(part.numel(), _PERIOD)), generator=generator) * 0.02
                part += noise.repeat(-(-part.numel() // len(noise)))[: part.numel()].reshape(part.shape)
            return nn.Parameter(part, requires_grad=False)

        sub = narrow(self.model, analysis, blocks, bind)
        sub.eval()
        return sub


_PERIOD = 10_007


@torch.no_grad()
def _run(model: nn.Module, inputs: Inputs) -> list[Tensor] | None:
    """The tensors that a copy returns; None if it raises."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            result = inputs.map(lambda tensor: tensor.detach().cpu().clone()).call(model)
        except Exception:  # forwards raise various errors for inputs that they do not support
            return None
    return tensors_in(result)


def _same(one: list[Tensor], two: list[Tensor]) -> bool:
    if len(one) != len(two):
        return False
    return all(
        a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(one, two, strict=True)
    )
