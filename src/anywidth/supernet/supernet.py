"""The supernet: a user's module at full width, and every narrower network inside it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import nn

from anywidth.core.inputs import Inputs, normalise_inputs
from anywidth.groups import Analysis, ChannelGroup
from anywidth.groups.effects import ForwardEffects
from anywidth.supernet.blocked import SMALLEST, blocked
from anywidth.supernet.build_subnet import build_subnet
from anywidth.supernet.construct import constructed
from anywidth.supernet.extract import extract
from anywidth.supernet.fixed_widths import FixedWidths
from anywidth.supernet.frozen_norms import FrozenNorms
from anywidth.supernet.input_rescaling import fold_rescaling_
from anywidth.supernet.order import Order
from anywidth.supernet.own_buffers import OwnBuffers
from anywidth.supernet.progressive import Progressive
from anywidth.supernet.settings import SupernetSettings
from anywidth.supernet.state import SupernetState
from anywidth.supernet.statistics import Statistics
from anywidth.supernet.subnet_table import SubnetTable
from anywidth.supernet.summary import elastic_share, summary
from anywidth.supernet.tracked_state import TrackedState
from anywidth.widths import Width, WidthConfig, WidthSampler

__all__ = ["Supernet"]


class Supernet(FixedWidths):
    """One network that runs at any width.

    Args:
        model: Any module that `torch.export` can capture. It stays the owner of every weight; its `state_dict`
            keys do not change.
        example_inputs: A tensor, a tuple of arguments or a dict of keyword arguments for one call of the model.
        divisor: Active channels are rounded to a multiple of this.
        min_width: The narrowest width, in (0, 1]; of a network with switches, the narrowest of them.
        frozen: Glob patterns of groups, or of modules that make channels, that are never narrowed.
        ratios: Expansion ratios by pattern, for groups whose channels are rounded before an expansion; those of
            inverted residuals are found by themselves.
        cache_size: How many subnets are kept ready.
        order: Permute the channels of every group once, the most important first, because subnets keep the first:
            for models with trained weights. "l1" goes by the L1 norm of the weights; a function of a group and its
            parameters gives one number per block (`anywidth.supernet.order`). The function of the model stays the
            same.
        switches: The only widths of the network, such as (0.25, 0.5, 0.75, 1.0), each with batch norms of its own
            (Slimmable Networks, arXiv 1812.08928): train `net.parameters()` then, not only the model's. None for any
            width from `min_width` on.
        switch_affine: Whether switches have weights and biases of batch norms of their own, and not only statistics.
        nested: The only widths of the network, such as (0.25, 0.5, 0.75, 1.0), each of which is a prefix of the next
            wider one: no channel reads channels that only wider ones have, so that one pass of the full network
            contains every width (`anywidth.nested_step`). Weights that would do so are zero and stay zero. New
            weights are scaled for the inputs that are left; with `order`, they are taken as trained and only cut.
        nested_norm: "shell" replaces the layer, RMS and group norms of `model` that would let channels of a nested
            network depend on later shells by norms per shell (`anywidth.supernet.shell_norm.ShellNorm`): a channel is
            normalised with the channels of its own and earlier shells. Parameters and keys stay. None refuses such
            networks.
        samples: How many samples `example_inputs` holds, for costs per sample. None finds it: along the first or second
            dimension in which positions do not depend on one another. Rows of features count as samples, so say
            `samples=1` where they are the tokens of one.
        average_inputs: Let narrow convolutions and linear layers scale their sums up by full over active input
            channels (an ablation of US-Nets, arXiv 1903.05134, which found no clear gain).

    Raises:
        AnalysisError: the model cannot be captured.
        WidthError: `min_width`, `divisor`, a pattern or a switch does not fit.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 10))
    >>> net = Supernet(model, torch.randn(1, 3, 8, 8))
    >>> net.config(0.5)
    WidthConfig({'0': 16})
    >>> net.subnet(0.5)[0]
    Conv2d(3, 16, kernel_size=(3, 3), stride=(1, 1))
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        *,
        divisor: int = 8,
        min_width: float = 0.25,
        frozen: Sequence[str] = (),
        ratios: Mapping[str, int] | None = None,
        cache_size: int = 512,
        order: Order | None = None,
        switches: Sequence[float] | None = None,
        switch_affine: bool = True,
        nested: Sequence[float] | None = None,
        nested_norm: Literal["shell"] | None = None,
        samples: int | None = None,
        average_inputs: bool = False,
    ) -> None:
        settings = SupernetSettings(
            divisor=divisor,
            min_width=min_width,
            frozen=frozen,
            ratios=ratios or {},
            cache_size=cache_size,
            switches=switches,
            switch_affine=switch_affine,
            nested=nested,
            nested_norm=nested_norm,
            samples=samples,
            average_inputs=average_inputs,
            ordered=order is not None,
        )
        inputs = normalise_inputs(example_inputs)
        with constructed(model, inputs, settings, order) as state:
            self._start(state, WidthSampler(settings.min_width))
        if self.elastic_share < 0.5:
            warnings.warn(
                f"only {self.elastic_share:.0%} of the MACs of {type(model).__name__} can be narrowed; "
                "print(net.summary()) tells what is frozen and why",
                stacklevel=2,
            )

    @classmethod
    def from_parts(cls, model: nn.Module, inputs: Inputs, analysis: Analysis, settings: SupernetSettings) -> Supernet:
        """A supernet of a model that has been analysed, ordered, and nested already, as that of a checkpoint."""
        state = SupernetState(model, inputs, analysis, settings)
        state.fix_widths()
        net = cls.__new__(cls)
        net._start(state, WidthSampler(state.settings.min_width))
        return net

    def _start(self, state: SupernetState, sampler: WidthSampler) -> None:
        """Prepare what belongs to this process and to these very tensors: subnets, and a look at the model."""
        self.model = state.model
        self.sampler = sampler
        self._subnets = SubnetTable(state.settings.cache_size)
        self._tracked = TrackedState(state, self._subnets)

    def __getstate__(self) -> dict[str, Any]:
        """Everything that is known of the model, without subnets."""
        own = {name: value for name, value in self.__dict__.items() if name not in ("_subnets", "_tracked")}
        return {**own, "_state": self._tracked.current}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the result of `__getstate__`."""
        known: SupernetState = state["_state"]
        self.__dict__.update({name: value for name, value in state.items() if name != "_state"})
        self._start(known, state["sampler"])
        if known.shells is not None:
            known.shells.attach(known.model)

    # -- the model -------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Take note of what was changed in the model since the last call; everything here does so by itself.

        Replaced, added and removed modules, tensors and hooks, attributes with other values, and weights that are
        moved, replaced or frozen reach the subnets that are given out from then on. Where channels may hang together
        in another way than before, the model is analysed again with the same settings, and statistics are dropped.

        A hook that changes what layers receive is noticed when a subnet runs it: statistics are then out of date, and
        the model is analysed again. This includes hooks of all modules (`register_module_forward_hook`).

        Raises:
            ModelChangedError: the changed model needs a new supernet.
        """
        self._tracked.follow()

    def watch_hooks(self, network: nn.Module, config: WidthConfig) -> None:
        """Watch hooks of a copy of the model that change numbers, which proofs and statistics may not cover."""
        self._tracked.watch_hooks(network, config, norms=tuple)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Context manager that looks for changes of the model once, at its start; for steps that ask many times."""
        with self._tracked.settled():
            yield

    @property
    def generation(self) -> int:
        """How often the model has changed since this supernet was built."""
        return self._tracked.generation

    @property
    def inputs(self) -> Inputs:
        """The example inputs, on the device of the model when it was analysed."""
        return self._tracked.state.inputs

    @property
    def effects(self) -> ForwardEffects:
        """Side effects of a forward of the model."""
        return self._tracked.state.effects

    @property
    def analysis(self) -> Analysis:
        """What is known of the channels of the model."""
        return self._tracked.current.analysis

    @property
    def groups(self) -> tuple[ChannelGroup, ...]:
        """All channel groups, the frozen ones (with their reason) too."""
        return self.analysis.groups

    @property
    def elastic_share(self) -> float:
        """Share of the MACs (convolutions, matrix products) that shrink when groups are narrowed, in [0, 1]."""
        return elastic_share(self.analysis)

    @property
    def samples(self) -> int:
        """How many samples the example inputs hold; costs are per sample."""
        return self.analysis.samples

    def summary(self) -> str:
        """A table of what is elastic, what is frozen and why, and the share of MACs that is elastic."""
        return summary(self.analysis, type(self.model).__name__)

    # -- settings --------------------------------------------------------------------------------------

    @property
    def divisor(self) -> int:
        """Active channels are a multiple of this."""
        return self._tracked.state.settings.divisor

    @property
    def min_width(self) -> float:
        """The narrowest width."""
        return self._tracked.state.settings.min_width

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of the groups that were frozen on request."""
        return tuple(self._tracked.state.settings.frozen)

    @property
    def ratios(self) -> dict[str, int]:
        """Expansion ratios by pattern."""
        return dict(self._tracked.state.settings.ratios)

    @property
    def average_inputs(self) -> bool:
        """Whether inputs of narrow layers are rescaled."""
        return self._tracked.state.settings.average_inputs

    # -- one width -------------------------------------------------------------------------------------

    @property
    def statistics(self) -> Statistics:
        """The batch-norm statistics of calibrated widths."""
        return self._tracked.current.statistics

    @property
    def own_buffers(self) -> OwnBuffers:
        """Other buffers that a forward writes, with separate values by width."""
        return self._tracked.state.own_buffers

    @property
    def frozen_norms(self) -> FrozenNorms:
        """What narrow widths do about batch norms that are in evaluation mode while the rest trains."""
        return self._tracked.state.frozen_norms

    def config(self, width: Width) -> WidthConfig:
        """The active channels of every elastic group at a width, rounded by group.

        Args:
            width: A float in [min_width, 1], a map of glob patterns to such floats (first match counts, groups
                without a match stay whole), or a config, which is checked.

        Raises:
            WidthError: out of range, no switch of a network that has switches, a pattern without a match, or a config
                of another network.
        """
        return self._tracked.current.config(width)

    def subnet(self, width: Width) -> nn.Module:
        """The network at one width, an ordinary module that shares weights and gradients with the supernet.

        The same config gives the same module until the model (see `follow`) or that module is changed; the full width
        gives the model itself. In training mode batch norms use the statistics of the batch and store none; in
        evaluation mode a width has to be calibrated (`UncalibratedError` otherwise).

        Train/eval flags are those of the model, module by module. They are copied when those of the model have changed
        since this subnet was last given out, so `model.eval()` reaches every subnet, and `net.subnet(0.5).eval()`
        holds until the model is switched itself. Every pass of a training step copies them as well.

        A backward pass of a subnet adds to the gradients of the supernet's parameters, where they are clipped and read:
        `torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)`. With `subnet.parameters()`, that raises, and so do
        `grad` of a subnet's parameter, `zero_grad` of a subnet and optimizers of its parameters.
        """
        tracked, subnets = self._tracked, self._subnets
        state = tracked.current
        config = state.config(width)
        if state.shells is not None:
            state.shells.check()
        if config == state.full:
            return self.model
        with subnets.lock:
            subnet = subnets.get(
                config,
                self.model,
                tracked.modes,
                lambda: build_subnet(tracked, config),
                written=None if tracked.is_settled else (tracked.state.analysis.written, tracked.written),
            )
            dropped = subnets.drop_oldest()
            if dropped is not None:
                tracked.state.forget(dropped)
        return subnet

    def progressive(self) -> Progressive:
        """Inference from narrow to wide that computes nothing twice, for a nested network; see `Progressive`."""
        return Progressive(self)

    def extract(self, width: Width, *, calibrated: bool = True) -> nn.Module:
        """An independent, contiguous, plain network of one width, of the same classes.

        Args:
            width: As in `config`.
            calibrated: Take the width's batch-norm statistics. False gives fresh statistics, for a network that
                is going to be trained.

        Raises:
            UncalibratedError: the width has no up-to-date statistics.
            ModelChangedError: the network is nested, and weights that read later shells are not zero.
        """
        state = self._tracked.current
        config = state.config(width)
        for record in self._subnets.records:
            if record.copies is not None:
                record.copies.write_back()
        if state.shells is not None:
            state.shells.check(every=True)
        if calibrated and config != state.full:
            state.statistics.check(config)
        own_tensor = (lambda *_: None) if config == state.full else state.own_tensor(config, statistics=calibrated)
        handmade = state.effects.norms
        dense = extract(self.model, state.analysis, config, own_tensor, calibrated=calibrated, handmade=handmade)
        fold_rescaling_(self.model, dense, state.rescaled_layers)
        return dense

    def blocked(self, width: Width, *, smallest: int = SMALLEST) -> nn.Module:
        """An independent network of one width of a nested network, for inference, that skips products with zeros.

        Convolutions and linear layers that have zero blocks become `anywidth.supernet.blocked.Blocked`, which compute
        one product per part of their output channels; `nn.MultiheadAttention` becomes `BlockedAttention` likewise.
        Everything else is as in `extract` and stays dense, such as grouped convolutions and layers of other classes.

        Args:
            width: As in `config`.
            smallest: MACs that one more product has to save, in a call with the example inputs; 0 skips every zero
                block, so that `anywidth.macs(net, width)` are computed.

        Raises:
            WidthError: the network is not nested.
            AnalysisError: the network uses layers in another way than calling them, so that they cannot be replaced.

        >>> import torch
        >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
        >>> net = Supernet(model, torch.randn(1, 4), nested=(0.5, 1.0))
        >>> net.blocked(1.0, smallest=0)[2].parts
        ModuleList(
          (0): Linear(in_features=16, out_features=16, bias=True)
          (1): Linear(in_features=32, out_features=16, bias=True)
        )
        """
        self.shells.check()
        config = self.config(width)
        return blocked(self, config, self.extract(config), smallest=smallest)

    def save(self, folder: str | Path) -> Path:
        """Write `supernet.safetensors` and `supernet.json` into a folder; see `anywidth.load`."""
        from anywidth.supernet.checkpoint import save

        return save(self, folder)
