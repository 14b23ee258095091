"""The shells of a nested supernet: zero entries that stay zero, and outputs of modules that all widths share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.core.errors import ModelChangedError, WidthError
from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors
from anywidth.groups.analysis import Analysis, KeptIndices
from anywidth.groups.later_shells import LaterEntries
from anywidth.groups.narrow import take
from anywidth.groups.nested import prove_nested
from anywidth.groups.nesting import Leaf
from anywidth.supernet.kept_zeros import keep_zero, nonzero, zero_, zero_gradients_
from anywidth.supernet.zero_samples import ZeroSamples
from anywidth.widths import WidthConfig

__all__ = ["Recording", "Shells", "check_shells"]

Recording = Mapping[str, Sequence[Any]]
"""What the modules that all widths share returned, by path and call."""


class Shells:
    """The shells of a nested supernet.

    Entries of weights at which a channel would read a channel of a later shell are zero, and stay zero under every
    optimizer.

    Args:
        model: The model.
        inputs: Example inputs.
        analysis: Its groups.
        widths: The widths by their configs, in ascending order; the last is the full one.

    Attributes:
        widths: The same.
        nesting: What the proof found.

    Raises:
        AnalysisError: the model cannot be nested.

    Source: Any-Width Networks (arXiv 2012.03153) for convolutions.
    """

    def __init__(
        self, model: nn.Module, inputs: Inputs, analysis: Analysis, widths: Mapping[WidthConfig, float]
    ) -> None:
        self.widths = dict(widths)
        self._numbers = {config: number for number, config in enumerate(self.widths)}
        bounds = np.stack([analysis.blocks(config) for config in self.widths])
        self._analysis = analysis
        self.nesting = prove_nested(model, inputs, analysis, bounds)
        self.attach(model)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what refers to the tensors of this process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_parameters", "_samples")}

    def attach(self, model: nn.Module) -> None:
        """Look after the weights of a model from now on."""
        tensors = named_tensors(model)
        self._parameters = {name: tensors[name] for name, later in self.nesting.later.items() if later.blocks}
        later = self.nesting.later
        keep_zero(model, ((parameter, later[name]) for name, parameter in self._parameters.items()))
        self._samples: ZeroSamples | None = None

    def number(self, config: WidthConfig) -> int:
        """The position of a width's last shell, from 0.

        Raises:
            WidthError: the config does not end at one shell in all groups.
        """
        return self._numbers[config]

    def check_config(self, config: WidthConfig) -> None:
        """Raise unless the width is exact: every group ends at a shell, and reads groups that end no earlier.

        Raises:
            WidthError: it is not.
        """
        if config in self._numbers:
            return
        ends: dict[int, int] = {}
        groups = self._analysis.groups
        for number, group in enumerate(groups):
            if group.frozen is None:
                shells = [shell for shell, each in enumerate(self.widths) if each[group.name] == config[group.name]]
                if not shells:
                    known = ", ".join(f"{width:g}" for width in self.widths.values())
                    raise WidthError(
                        f"width {config} ends inside a shell of {group.name!r}, so that it would not be exact; the "
                        f"widths of this nested network are {known}"
                    )
                ends[number] = shells[-1]
        for made, read in self.nesting.reads:
            if ends[read] < ends[made]:
                raise WidthError(
                    f"width {config} is not exact in this nested network: {groups[made].name!r} ends at a later shell "
                    f"than {groups[read].name!r}, which it reads. Give {groups[read].name!r} at least that width"
                )

    def scale_(self) -> None:
        """Scale new weights for the inputs that are left, so that activations keep their size."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                later = self.nesting.later[name]
                shape = [-1 if dim == later.out_dim else 1 for dim in range(parameter.ndim)]
                gain = torch.from_numpy(later.readable() ** -0.5).to(parameter)
                parameter.mul_(gain.reshape(shape))

    def zero_(self) -> None:
        """Set the entries that read later shells to zero."""
        zero_(self._parameters.values())

    def zero_gradients_(self) -> None:
        """Set the gradients of the entries that read later shells to zero."""
        zero_gradients_(self._parameters.values())

    def check(self, *, every: bool = False) -> None:
        """Raise if somebody has written to entries that have to be zero.

        Version counters tell which weights to read. Writes through `.data` do not change them, so a few entries on the
        CPU are always read.

        Args:
            every: Read all entries.

        Raises:
            ModelChangedError: some are not zero.
        """
        weights = list(self._parameters.values())
        if self._samples is None or not self._samples.fits(weights):
            self._samples = ZeroSamples(weights, [self.nesting.later[name] for name in self._parameters])
        name = nonzero(self._parameters, every=every or not self._samples.are_zero())
        if name is not None:
            raise ModelChangedError(
                f"{name} has weights that read later shells, which a nested network does not have: were weights "
                "loaded that are not nested? net.zero_later_shells() drops them"
            )

    def share_kept(self, name: str, config: WidthConfig) -> float:
        """The share of a weight's entries at a width that is not zero."""
        later = self.later_at(name, config)
        return 1.0 if later is None else float((later.columns[None] <= later.rows[:, None]).mean())

    def later_at(self, name: str, config: WidthConfig) -> LaterEntries | None:
        """The entries of a weight at a width that are zero; None if it does not make channels from channels."""
        later = self.nesting.later.get(name)
        if later is None:
            return None
        kept = self._analysis.kept(name, self._analysis.blocks(config))
        rows, columns = _kept_of(later.rows, kept[later.out_dim]), _kept_of(later.columns, kept[later.in_dim])
        return LaterEntries(later.out_dim, later.in_dim, rows, columns)

    # -- outputs that all widths share -----------------------------------------------------------------

    @contextmanager
    def recorded(self, model: nn.Module) -> Iterator[Recording]:
        """Context manager that records what the forwards in the body return for the full network.

        Not the results of the modules: hooks are called again where recordings are replayed.
        """
        found: dict[str, list[Any]] = defaultdict(list)
        handles = []
        for path, calls in self.nesting.body.items():

            def keep(_: nn.Module, __: Any, output: Any, path: str = path, calls: Any = calls) -> None:
                leaves = calls[min(len(found[path]), len(calls) - 1)]
                found[path].append(_copied(output, leaves))

            handles.append(model.get_submodule(path).register_forward_hook(keep, prepend=True))
        try:
            yield found
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def replayed(self, subnet: nn.Module, recording: Recording, config: WidthConfig | None = None) -> Iterator[None]:
        """Context manager in which the body of a subnet returns its part of what was recorded, without computing.

        Without `config`, the recording is of this width already.
        """
        shell = None if config is None else self.number(config)
        before: list[tuple[nn.Module, Any]] = []
        try:
            for path, calls in self.nesting.body.items():
                module = subnet.get_submodule(path)
                before.append((module, module.__dict__.get("forward")))
                module.__dict__["forward"] = _Replay(recording[path], calls, shell)
            yield
        finally:
            for module, forward in reversed(before):
                if forward is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = forward


class _Replay:
    """Returns narrowed recordings, call by call."""

    def __init__(self, outputs: Sequence[Any], leaves: Sequence[Sequence[Leaf]], shell: int | None) -> None:
        self._calls = iter(zip(outputs, leaves, strict=True))
        self._shell = shell

    def __call__(self, *_: Any, **__: Any) -> Any:
        output, leaves = next(self._calls)
        places = iter(leaves)

        def narrowed(tensor: Tensor) -> Tensor:
            leaf = next(places)
            if not leaf.needed:  # whoever receives it returns what was recorded as well
                return tensor
            part = tensor if self._shell is None else take(tensor, leaf.kept[self._shell])
            return part.clone() if leaf.overwritten else part

        return narrowed(output) if isinstance(output, Tensor) else pytree.tree_map_only(Tensor, narrowed, output)


def _copied(output: Any, leaves: Sequence[Leaf]) -> Any:
    """The output, with copies of the tensors that later code overwrites."""
    if not any(leaf.overwritten for leaf in leaves):
        return output
    places = iter(leaves)
    return pytree.tree_map_only(Tensor, lambda t: t.clone() if next(places).overwritten else t, output)


def _kept_of(shells: npt.NDArray[np.int64], kept: KeptIndices) -> npt.NDArray[np.int64]:
    return shells[kept] if isinstance(kept, np.ndarray) else shells[:kept]  # None keeps all


def check_shells(nested: Sequence[float]) -> tuple[float, ...]:
    """The widths of shells, in ascending order.

    Raises:
        WidthError: fewer than two, not in ascending order, or the last is not 1.
    """
    if isinstance(nested, (str, float, int)) or not all(
        isinstance(width, (int, float)) and not isinstance(width, bool) for width in nested
    ):
        raise WidthError(f"nested={nested!r} is not a list of widths; give for example nested=(0.25, 0.5, 0.75, 1.0)")
    widths = tuple(map(float, nested))
    rising = all(a < b for a, b in pairwise(widths))
    if len(widths) < 2 or not rising or widths[-1] != 1.0 or not widths[0] > 0:
        raise WidthError(
            f"nested={nested!r}: give at least two widths in ascending order that end with 1, such as "
            "nested=(0.25, 0.5, 0.75, 1.0)"
        )
    return widths
