"""Proofs: compare the network with some groups narrowed to the masked full network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from anywidth.core.inputs import Inputs
from anywidth.groups.analysis import Analysis, ChannelGroup
from anywidth.groups.branches import Ways, compared_numbers, meeting_sizes
from anywidth.groups.capture import Capture
from anywidth.groups.compare import difference, tolerance_of
from anywidth.groups.draws import NARROWEST, OWN, RANDOM, ROUNDED, channels_of, meeting, separating
from anywidth.groups.proof_runs import ProofRuns, Weights
from anywidth.groups.propagate import Propagation
from anywidth.groups.reference import ShapeError
from anywidth.groups.selection import Selection

__all__ = ["Failure", "Prover"]

_SMALL = 20_000_000
"""Networks with fewer MACs are proved with more draws."""

_MEETINGS = 8
"""Maximum number of sizes that channels of other networks are made to meet."""

_LARGE = 1_000_000_000
"""Networks with more MACs are proved in single precision, and in double precision if they fail."""

_MACS, _FEWEST = 8_000_000_000, 2
"""MACs to spend on the draws that separate groups, and the minimum number of these draws."""


@dataclass(frozen=True)
class Failure:
    """The reason why a proof failed, the path of the module that raised (None if results differ), and the draw."""

    text: str
    module: str | None = None
    draw: int = 0


class Prover:
    """Runs proofs on copies of one model, with weights that do not hide errors.

    A proof compares the inputs of every operator that reads weights, in addition to the outputs, so that a final
    sigmoid or argmax does not hide earlier errors. Draws run in single precision, which is several times as fast. If
    they fail, they run again in double precision, whose verdict counts. Random draws of networks that are not large run
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
        self.model, self.capture, self.inputs, self.seed = model, capture, inputs, seed
        self.training = training
        self._runs = ProofRuns(model, found, capture, inputs, seed)
        self._double = True

    def fault(
        self, analysis: Analysis, groups: Sequence[ChannelGroup], failure: Failure
    ) -> tuple[ChannelGroup, Failure]:
        """The first group, found by halving, with which groups that had `failure` together begin to fail.

        It need not fail alone, so groups that fail only together are found too.
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
        """None if the network with these groups narrowed equals the masked one in all draws, otherwise the failure.

        All groups are narrowed at random, and as far as possible. For any two groups, some draw narrows only one of
        them. If an integer attribute may count one of several groups, the random draws distinguish them. In one draw, a
        group is narrowed in the same way regardless of the groups after it.
        """
        failures = (self._prove(analysis, groups, draw) for draw in draws or self._draws(analysis, groups))
        return next((failure for failure in failures if failure is not None), None)

    def require_equal(self, analysis: Analysis) -> Failure | None:
        """None if the network is right when a number of channels coincides with another size, otherwise the failure.

        A forward that compares sizes may then take a different branch. This is checked without computing; results are
        compared only if it does.
        """
        if self.compared is None or not analysis.elastic:
            return None
        draws = list(map(meeting, meeting_sizes(self.capture, analysis)))
        if _macs(analysis) >= _SMALL:
            draws = [*ROUNDED, *draws[:_MEETINGS]]
        for draw in draws if self.ways.usual is not None else ():
            if self.ways.narrowed(analysis, self._blocks(analysis, analysis.elastic, draw)) != self.ways.usual:
                failure = self._prove(analysis, analysis.elastic, draw)
                if failure is not None:
                    return failure
        return None

    @cached_property
    def compared(self) -> frozenset[int] | None:
        """Integers in code with comparisons; None if the forward takes the same branches for all sizes."""
        return compared_numbers(self.model)

    @cached_property
    def ways(self) -> Ways:
        """The functions that the forward calls."""
        return Ways(self.model, self.inputs)

    def silent(self, analysis: Analysis) -> list[ChannelGroup]:
        """The elastic groups that no compared value depends on, so that a proof does not cover them."""
        moved = self._runs.moved(analysis)
        doubtful = [group for group in analysis.elastic if group.name not in moved]
        return [group for group in doubtful if not self._runs.changes(analysis, group)]

    def _blocks(self, analysis: Analysis, groups: Sequence[ChannelGroup], draw: int) -> npt.NDArray[np.int64]:
        return analysis.blocks(channels_of(groups, draw, self.seed))

    def _draws(self, analysis: Analysis, groups: Sequence[ChannelGroup]) -> list[int]:
        macs = _macs(analysis)
        small, most = macs < _SMALL, max(_FEWEST, _MACS // max(1, macs))
        draws = [*self._random_draws(analysis, groups), NARROWEST, *separating(len(groups), small=small, most=most)]
        return list(dict.fromkeys([*draws, *RANDOM[:3], *ROUNDED, OWN])) if small else draws

    def _random_draws(self, analysis: Analysis, groups: Sequence[ChannelGroup]) -> list[int]:
        """The fewest random draws that distinguish, where possible, the channels that integer attributes may count."""
        attributes = [
            (path, name, attribute)
            for path, found in analysis.attributes.items()
            for name, attribute in found.items()
            if attribute.alternatives > 1
        ]
        told: list[set[tuple[str, str, int]]] = []
        for draw in RANDOM if attributes else ():
            blocks = self._blocks(analysis, groups, draw)
            told.append({(path, name, i) for path, name, a in attributes for i in a.told_apart(blocks)})
        draws: list[int] = []
        left: set[tuple[str, str, int]] = set().union(*told)
        while left:
            draws.append(max(RANDOM, key=lambda draw: len(told[draw] & left)))
            left -= told[draws[-1]]
        return draws or [0]

    def _prove(self, analysis: Analysis, groups: Sequence[ChannelGroup], draw: int) -> Failure | None:
        selection, quick = self._runs.select(analysis, self._blocks(analysis, groups, draw)), self._runs.quick
        failure: Failure | None = None
        if draw == OWN:
            return self._attempt(selection, torch.float64, draw, "own") if self._double else None
        if draw not in RANDOM or not self._double or _macs(analysis) > _LARGE:
            failure = self._attempt(selection, quick, draw)
            if failure is None or failure.module is not None or quick == torch.float64:
                return failure
        failure = self._attempt(selection, torch.float64, draw) if self._double else failure
        if failure is None or failure.module is not None or self._double:
            return failure
        # In single precision, rounding may change the result of a softmax or comparison; small weights decide.
        return self._attempt(selection, quick, draw, "small")

    def _attempt(
        self, selection: Selection, dtype: torch.dtype, draw: int, weights: Weights = "usual"
    ) -> Failure | None:
        active: list[str] = []
        run = partial(self._runs.narrowed, selection, dtype, weights, train=self.training and draw in RANDOM)
        try:
            try:
                got, received = run()
            except Exception:  # run again to find the place
                got, received = run(active=active)
        except ShapeError as error:  # later code would hardly run, so the module at fault is repaired in the same way
            return Failure(str(error), self._owner(active), draw)
        except Exception as error:
            if self._insists_on_single(error, dtype):
                return self._attempt(selection, self._runs.quick, draw, weights)
            line = (str(error).strip().splitlines() or [""])[0][:160]
            where = self._owner(active)
            return Failure(
                f"its narrowed network does not run ({type(error).__name__} in {where!r}: {line})", where, draw
            )
        try:
            wanted = self._runs.reference(selection, dtype, weights)
        except RuntimeError as error:
            if self._insists_on_single(error, dtype):
                return self._attempt(selection, self._runs.quick, draw, weights)
            raise
        tolerance = tolerance_of({dtype, *wanted.dtypes})
        text = wanted.difference(received, tolerance)
        if text is None:
            text = difference(got, wanted.outputs, tolerance, dtypes=wanted.dtypes == {dtype})
        return None if text is None else Failure(text, draw=draw)

    def _insists_on_single(self, error: Exception, dtype: torch.dtype) -> bool:
        """Whether a forward does not run in double precision, so that it is not retried."""
        if dtype == self._runs.quick or not _needs_single(error):
            return False
        self._double = False
        return True

    def _owner(self, active: Sequence[str]) -> str:
        """The innermost running module whose forward the user (or a model library) wrote."""
        for path in reversed(active):
            kind = type(self.model.get_submodule(path))
            if not kind.__module__.startswith("torch.nn") or issubclass(kind, nn.MultiheadAttention):
                return path
        return ""


def _macs(analysis: Analysis) -> int:
    return sum(operator.macs for operator in analysis.operators)


def _needs_single(error: Exception) -> bool:
    """Whether a forward needs single precision."""
    text = str(error).lower()
    return "dtype" in text or ("type" in text and "float" in text) or "double" in text
