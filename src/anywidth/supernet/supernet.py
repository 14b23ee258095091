"""The supernet: a user's module at full width, and every narrower network inside it."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from anywidth.core.errors import AnywidthError, CheckpointError, ModelChangedError, NoEffectWarning, WidthError
from anywidth.core.inputs import Inputs, normalise_inputs
from anywidth.core.modules import model_device
from anywidth.groups import Analysis, ChannelGroup, analyse
from anywidth.groups.analysis import KeptIndices
from anywidth.groups.effects import ForwardEffects, forward_effects
from anywidth.groups.untouched import untouched
from anywidth.groups.wrappers import check_unsharded
from anywidth.groups.written import empty_
from anywidth.supernet.autocast_weights import forget_autocast
from anywidth.supernet.blocked import SMALLEST, blocked
from anywidth.supernet.dense_copies import SubnetHook, write_back
from anywidth.supernet.extract import extract
from anywidth.supernet.follow import Follower
from anywidth.supernet.frozen_norms import FrozenNorms
from anywidth.supernet.input_rescaling import fold_rescaling_, rescale_inputs_, rescaled_layers
from anywidth.supernet.order import Order, reorder_
from anywidth.supernet.own_buffers import OwnBuffers, batch_statistics
from anywidth.supernet.progressive import Progressive
from anywidth.supernet.replace_norms import norms_over_shells, replaced_norms
from anywidth.supernet.shell_norm import NormKind
from anywidth.supernet.shells import Shells, check_shells
from anywidth.supernet.snapshot import Snapshot
from anywidth.supernet.statistics import Statistics, norm_modules
from anywidth.supernet.subnet import OwnTensor, bind_subnet, shares_weights
from anywidth.supernet.summary import elastic_share, summary
from anywidth.supernet.switches import Switches, check_distinct, check_switches
from anywidth.supernet.unreached import explain_unreached
from anywidth.supernet.watch import watch
from anywidth.widths import Width, WidthConfig, WidthSampler, check_width, resolve

__all__ = ["Supernet"]

_NOT_NESTED = "this network is not nested; build it with Supernet(..., nested=(0.25, 0.5, 0.75, 1.0))"


class Supernet:
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

    _samples: int | None = None

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
        if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 1:
            raise WidthError(f"divisor must be a positive integer, not {divisor!r}")
        check_width(min_width, what="min_width")
        if switches is not None and nested is not None:
            raise WidthError("give switches= or nested=: nested widths share their batch norms")
        if nested_norm not in (None, "shell") or (nested_norm and nested is None):
            raise WidthError(
                f"nested_norm={nested_norm!r} needs nested= widths, such as nested=(0.25, 0.5, 0.75, 1.0), and can be "
                '"shell" or None'
            )
        fixed = () if switches is None else check_switches(switches)
        fixed = fixed if nested is None else check_shells(nested)
        min_width = fixed[0] if fixed else min_width
        inputs = normalise_inputs(example_inputs)
        self._samples = samples
        analysis = analyse(model, inputs, samples=samples)
        self._set_up(model, inputs, analysis, divisor, min_width, frozen, ratios or {}, cache_size)
        self._set_input_rescaling(average_inputs)
        check_distinct((width, self.config(width)) for width in fixed)
        if order is not None:  # last, because it changes the model
            reorder_(model, self.analysis, inputs, order)
            self._ordered = True
        if nested is not None:
            norms = self._norms_over_shells(fixed) if nested_norm else {}
            if nested_norm and not norms:
                warnings.warn(
                    f'nested_norm="{nested_norm}" has no effect: {type(model).__name__} has no layer, RMS or group '
                    "norm over elastic channels that other channels are made from",
                    NoEffectWarning,
                    stacklevel=2,
                )
            with replaced_norms(model, norms):
                if norms:
                    analysis = analyse(model, inputs, samples=samples)
                    self._set_up(model, inputs, analysis, divisor, min_width, frozen, ratios or {}, cache_size)
                    self._set_input_rescaling(average_inputs)
                    self._ordered = order is not None
                self._set_shells(fixed)
            if order is None:
                self.shells.scale_()
            self.shells.zero_()
        elif fixed:
            self._set_switches(fixed, affine=switch_affine)
        if self.elastic_share < 0.5:
            warnings.warn(
                f"only {self.elastic_share:.0%} of the MACs of {type(model).__name__} can be narrowed; "
                "print(net.summary()) tells what is frozen and why",
                stacklevel=2,
            )

    def _set_up(
        self,
        model: nn.Module,
        inputs: Inputs,
        analysis: Analysis,
        divisor: int,
        min_width: float,
        frozen: Sequence[str],
        ratios: Mapping[str, int],
        cache_size: int = 512,
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.divisor = divisor
        self.min_width = float(min_width)
        self.frozen = (frozen,) if isinstance(frozen, str) else tuple(frozen)
        self.ratios = dict(ratios)
        self.sampler = WidthSampler(self.min_width)
        self.average_inputs = False
        self._cache_size = cache_size
        self._ordered = False
        self._switches: Switches | None = None
        self._shells: Shells | None = None
        self._set_analysis(analysis)
        self._set_table()

    def _set_analysis(self, analysis: Analysis) -> None:
        self._analysis = _with_settings(analysis, self.frozen, self.ratios)
        with untouched(self.model):
            self.effects = _canonical(forward_effects(self.model, self.inputs), self._analysis)
        self._statistics = Statistics(self.model, self.effects.norms)
        self.own_buffers = OwnBuffers(self.model, self._analysis, self.effects)
        self._frozen_norms: FrozenNorms | None = None
        self._configs: dict[float, WidthConfig] = {}
        self._full = resolve(self._analysis.elastic, 1.0, divisor=self.divisor, min_width=self.min_width)

    def _set_table(self) -> None:
        """Prepare what belongs to this process and to these very tensors: subnets, and what they are built from."""
        self._lock = threading.RLock()
        self._settled = threading.local()
        self._cache: OrderedDict[WidthConfig, nn.Module] = OrderedDict()
        self._alive: WeakValueDictionary[WidthConfig, nn.Module] = WeakValueDictionary()
        self._given: WeakKeyDictionary[nn.Module, tuple[bool, ...]] = WeakKeyDictionary()
        self._snapshots: WeakKeyDictionary[nn.Module, Snapshot] = WeakKeyDictionary()
        self._set_follower()
        self.generation = 0
        watch(self.model)

    def _set_follower(self) -> None:
        with untouched(self.model):
            self._follower = Follower(self.model, self.inputs, self._moving, self.effects.numbers)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy or another process needs: the model and everything known of it, but no subnets."""
        self.follow()
        table = {"_lock", "_settled", "_cache", "_alive", "_given", "_snapshots", "_follower", "generation"}
        return {name: value for name, value in self.__dict__.items() if name not in table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` gave."""
        self.__dict__.update(state)
        self._set_table()
        if self._shells is not None:
            self._shells.attach(self.model)

    @property
    def _moving(self) -> frozenset[str]:
        """Names of the buffers that forwards write, so that other values in them are not changes by the user."""
        return frozenset((*self.effects.written, *(name for pair in self.effects.norms for name in pair)))

    @property
    def analysis(self) -> Analysis:
        """What is known of the channels of the model."""
        self.follow()
        return self._analysis

    @property
    def statistics(self) -> Statistics:
        """The batch-norm statistics of calibrated widths."""
        self.follow()
        return self._statistics

    def follow(self) -> None:
        """Take note of what was changed in the model since the last call; everything here does so by itself.

        Replaced, added and removed modules, tensors and hooks, attributes with other values, and weights that are
        moved, replaced or frozen reach the subnets that are given out from then on. Where channels may hang together
        in another way than before, the model is analysed again with the same settings, and statistics are dropped.

        A hook that changes what layers receive is noticed when a subnet runs it: statistics are then out of date, and
        the model is analysed again. Hooks for all modules (`register_module_forward_hook`) are not noticed.

        Raises:
            ModelChangedError: the changed model needs a new supernet.
        """
        if getattr(self._settled, "depth", 0) or self._follower.is_current():
            return
        with self._lock, torch.inference_mode(False):
            if self._follower.is_current():
                return
            check_unsharded(self.model)
            seen = self._follower.look()
            if not seen.anything:
                return
            if seen.structure is not None:
                self._analyse_again(seen.structure)
            elif seen.number is not None:
                self._analyse_again(seen.number, keep_if_same=True)
            elif seen.hook is not None:  # whether it keeps shells apart is not proved again
                self._analyse_again(seen.hook, keep_if_same=self._shells is None, outdate=seen.computes)
            else:
                self._statistics.forget_weights()
                if self._shells is not None:
                    self._shells.attach(self.model)
                if seen.computes:
                    self._statistics.outdate()
            self._statistics.fit_hooks(self._follower.hooks.changing)
            self._cache.clear()
            self._alive.clear()
            self.generation += 1
            forget_autocast(self.model)
            watch(self.model)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """Context manager that looks for changes of the model once, at its start; for steps that ask many times."""
        self.follow()
        self._settled.depth = getattr(self._settled, "depth", 0) + 1
        try:
            yield
        finally:
            self._settled.depth -= 1

    def _analyse_again(self, what: str, *, keep_if_same: bool = False, outdate: bool = True) -> None:
        changed = f"the model has been changed since Supernet(model, ...): {what}"
        kept = "order" if self._ordered else None
        kept = "switches" if self._switches is not None else "nested" if self._shells is not None else kept
        fixed = None if kept is None else f"{changed}. With {kept}=, build a new Supernet of the changed model"
        if fixed is not None and not keep_if_same:
            raise ModelChangedError(fixed)
        like = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        device = model_device(self.model)

        def move(tensor: Tensor) -> Tensor:
            other = like is not None and tensor.is_floating_point() and tensor.dtype != like.dtype
            return tensor.to(device=device, dtype=like.dtype if other and like is not None else tensor.dtype)

        try:
            inputs = self.inputs.map(move)
            with torch.enable_grad(), torch.autocast(device.type, enabled=False):
                analysis = analyse(self.model, inputs, samples=self._samples)
                same = keep_if_same and _with_settings(analysis, self.frozen, self.ratios).narrows_like(self._analysis)
                if not same and fixed is None:
                    self.inputs = inputs
                    self._set_analysis(analysis)
                    self._set_input_rescaling(self.average_inputs)
                    self._set_follower()
        except AnywidthError as error:
            raise ModelChangedError(f"{changed}. A new Supernet is needed, because {error}") from error
        if same:
            self._follower.accept()
            self._statistics.forget_weights()
            if outdate:
                self._statistics.outdate()
        elif fixed is not None:
            raise ModelChangedError(fixed)

    def _set_input_rescaling(self, wanted: bool) -> None:
        self.average_inputs = wanted
        self._rescaled_layers = rescaled_layers(self.model, self.analysis) if wanted else ()

    def _set_switches(self, widths: Sequence[float], *, affine: bool) -> None:
        if self.effects.norms:
            raise WidthError(
                f"every switch has its own batch norms, and {self.effects.norms[0][0]} is the running mean of one that "
                "is not a module of torch: use nn.BatchNorm1d, 2d or 3d there, or leave switches out"
            )
        switches = Switches(self.model, self.analysis, self.statistics, affine=affine)
        for width in widths:
            switches.add(width, self.config(width))
        self._switches = switches
        self._configs.clear()

    def _set_shells(self, widths: Sequence[float]) -> None:
        shells = Shells(self.model, self.inputs, self._analysis, {self.config(width): width for width in widths})
        self._statistics.share(self._statistics.names - shells.nesting.tail)
        self._shells = shells
        self._configs.clear()

    def _norms_over_shells(self, widths: Sequence[float]) -> dict[str, tuple[NormKind, int, Tensor]]:
        bounds = np.stack([self._analysis.blocks(self.config(width)) for width in widths])
        return norms_over_shells(self.model, self.inputs, self._analysis, bounds)

    @property
    def nested(self) -> tuple[float, ...]:
        """The widths of a nested network in ascending order; empty for any other."""
        return () if self._shells is None else tuple(self._shells.widths.values())

    @property
    def shells(self) -> Shells:
        """The shells of a nested network.

        Raises:
            WidthError: the network is not nested.
        """
        if self._shells is None:
            raise WidthError(_NOT_NESTED)
        self.follow()
        return self._shells

    def progressive(self) -> Progressive:
        """Inference from narrow to wide that computes nothing twice, for a nested network; see `Progressive`."""
        return Progressive(self)

    def zero_later_shells(self) -> None:
        """Set the weights that read later shells to zero, after weights were loaded that are not nested."""
        self.shells.zero_()

    @property
    def widths(self) -> tuple[float, ...]:
        """The only widths of a network with switches or shells, in ascending order; empty for one of any width."""
        return self.switches or self.nested

    @property
    def switches(self) -> tuple[float, ...]:
        """The only widths of a network with switches, in ascending order; empty for a network of any width."""
        return () if self._switches is None else tuple(self._switches.widths.values())

    def add_switch(self, width: float) -> None:
        """One more switch; its batch norms start as those of the next wider one, from which training goes on.

        Its parameters are new: make the optimizer again from `parameters()`, or add them to it.

        Raises:
            WidthError: the network has no switches, or this one already.
        """
        if self._switches is None:
            raise WidthError("this network has no switches to add one to; make it with Supernet(..., switches=...)")
        check_width(width, what="switch")
        low = min(width, self.min_width)
        config = resolve(self.analysis.elastic, float(width), divisor=self.divisor, min_width=low)
        wider = next((c for c, known in self._switches.widths.items() if known > width), None)
        self._switches.add(float(width), config, wider)
        self.min_width = low

    @property
    def switch_affine(self) -> bool:
        """Whether switches have weights and biases of batch norms of their own."""
        return self._switches is not None and self._switches.affine

    def switch_state(self) -> dict[str, Tensor]:
        """What switches have of their own, by `WIDTH/NAME`; the rest is in `net.model.state_dict()`."""
        return {} if self._switches is None else self._switches.state()

    def load_switch_state(self, state: Mapping[str, Tensor]) -> None:
        """Take what `switch_state` of a network with the same switches gave.

        Raises:
            CheckpointError: it is of other switches.
        """
        if self._switches is None:
            raise CheckpointError("this network has no switches")
        self._switches.load_state(state)

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that is to be trained: the parameters of the model, and those that switches have of their own."""
        yield from self.model.parameters()
        yield from self.switch_parameters()

    def switch_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that switches have of their own, which are not the model's."""
        return iter(()) if self._switches is None else self._switches.parameters()

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

    def config(self, width: Width) -> WidthConfig:
        """The active channels of every elastic group at a width, rounded by group.

        Args:
            width: A float in [min_width, 1], a map of glob patterns to such floats (first match counts, groups
                without a match stay whole), or a config, which is checked.

        Raises:
            WidthError: out of range, no switch of a network that has switches, a pattern without a match, or a config
                of another network.
        """
        self.follow()
        if isinstance(width, float) and width in self._configs:
            return self._configs[width]
        elastic = self.analysis.elastic
        frozen = [group for group in self.groups if group.frozen]
        config = resolve(elastic, width, divisor=self.divisor, min_width=self.min_width, frozen=frozen)
        if config.label is None:
            config = self._labelled(config)
        if self._switches is not None and config not in self._switches.widths:
            known = ", ".join(f"{switch:g}" for switch in self.switches)
            raise WidthError(f"width {config} is not a switch of this network, whose switches are {known}")
        if self._shells is not None:
            self._shells.check_config(config)
        if isinstance(width, float) and len(self._configs) < 4096:
            self._configs[width] = config
        return config

    def _labelled(self, config: WidthConfig) -> WidthConfig:
        """A known config with the same channels and a label, or the config itself."""
        known = (*self._statistics.configs, *self._configs.values())
        same = [each for each in known if each == config and each.label is not None]
        # Of several widths that round to it, the random ones are long.
        return min(same, key=lambda each: len(str(each)), default=config)

    def subnet(self, width: Width) -> nn.Module:
        """The network at one width, an ordinary module that shares weights and gradients with the supernet.

        The same config gives the same module until the model (see `follow`) or that module is changed; the full width
        gives the model itself. In training mode batch norms use the statistics of the batch and store none; in
        evaluation mode a width has to be calibrated (`UncalibratedError` otherwise).

        Train/eval flags are those of the model, module by module. They are copied when those of the model have changed
        since this subnet was last given out, so `model.eval()` reaches every subnet, and `net.subnet(0.5).eval()`
        holds until the model is switched itself. Every pass of a training step copies them as well.

        A backward pass of a subnet adds to the gradients of the supernet's parameters. `grad` of the subnet's own
        parameters is always None, so gradients are clipped and read at `net.parameters()`:
        `torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)`. With `subnet.parameters()`, that does nothing.
        `zero_grad` of a subnet and optimizers of its parameters raise.
        """
        config = self.config(width)
        if self._shells is not None:
            self._shells.check()
        if config == self._full:
            return self.model
        with self._lock:
            subnet = self._alive.get(config)
            if subnet is not None and not self._is_as_built(subnet):
                subnet = None  # it belongs to whoever changed it
            if subnet is None:
                with torch.inference_mode(False):
                    subnet = self._alive[config] = self._build(config)
            elif self._given[subnet] != self._follower.modes:
                for ours, theirs in zip(self.model.modules(), subnet.modules(), strict=True):
                    theirs.training = ours.training
            self._given[subnet] = self._follower.modes
            if not getattr(self._settled, "depth", 0) and subnet not in self._snapshots:
                self._snapshots[subnet] = Snapshot(subnet, self._analysis.written, self._follower.written)
            self._cache[config] = subnet
            self._cache.move_to_end(config)
            if len(self._cache) > self._cache_size:
                evicted = self._cache.popitem(last=False)[0]
                if evicted not in self._alive:  # else somebody holds it, and it is given out again
                    self.statistics.forget(evicted)
                    self.own_buffers.forget(evicted)
        return subnet

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
        config = self.config(width)
        for subnet in list(self._alive.values()):
            write_back(subnet)
        if self._shells is not None:
            self._shells.check(every=True)
        if calibrated and config != self._full:
            self.statistics.check(config)
        own_tensor = (lambda *_: None) if config == self._full else self._own_tensor(config, statistics=calibrated)
        dense = extract(
            self.model, self.analysis, config, own_tensor, calibrated=calibrated, handmade=self.effects.norms
        )
        if self.average_inputs:
            fold_rescaling_(self.model, dense, self._rescaled_layers)
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

        >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
        >>> net = Supernet(model, torch.randn(1, 4), nested=(0.5, 1.0))
        >>> net.blocked(1.0, smallest=0)[2].parts
        ModuleList(
          (0): Linear(in_features=16, out_features=16, bias=True)
          (1): Linear(in_features=32, out_features=16, bias=True)
        )
        """
        if self._shells is None:
            raise WidthError(_NOT_NESTED)
        config = self.config(width)
        return blocked(self, config, self.extract(config), smallest=smallest)

    def summary(self) -> str:
        """A table of what is elastic, what is frozen and why, and the share of MACs that is elastic."""
        return summary(self.analysis, type(self.model).__name__)

    def save(self, folder: str | Path) -> Path:
        """Write `supernet.safetensors` and `supernet.json` into a folder; see `anywidth.load`."""
        from anywidth.supernet.checkpoint import save

        return save(self, folder)

    def _build(self, config: WidthConfig) -> nn.Module:
        blocks = self.analysis.blocks(config)

        subnet = bind_subnet(self.model, self.analysis, blocks, self._own_tensor(config))
        if self.average_inputs:
            rescale_inputs_(self.model, subnet, self._rescaled_layers)
        norms: list[nn.Module] = list(norm_modules(subnet).values())
        for norm in norms if self._switches is None else ():  # in training, batch statistics are used and none stored
            if isinstance(norm, _InstanceNorm):  # which would not use what it has either
                norm.momentum = 0.0
            else:
                norm.track_running_stats = False  # type: ignore[assignment]
        explain_unreached(self.model, subnet, self.effects.unreached)
        if self._analysis.caches_weights:
            written = self._analysis.written
            subnet.register_forward_pre_hook(SubnetHook(lambda subnet: empty_(subnet, written)))
        self.own_buffers.bind(config, subnet)
        norms += batch_statistics(subnet, [name for pair in self.effects.norms for name in pair])
        if norms:
            subnet.register_forward_pre_hook(SubnetHook(lambda subnet: self._guard(subnet, norms, config)))
        self.watch_hooks(subnet, config, norms)
        return subnet

    def watch_hooks(self, network: nn.Module, config: WidthConfig, norms: Sequence[nn.Module] = ()) -> None:
        """Look after hooks of a copy of the model that change numbers, which proofs and statistics may not cover."""
        hooks = self._follower.hooks

        def found() -> None:
            self._statistics.fit_hooks(hooks.changing)
            unproved = hooks.unproved()
            if unproved is not None and self._shells is not None:
                self._analyse_again(unproved)
            if norms and not any(norm.training for norm in norms):
                self._statistics.check(config)

        hooks.watch(network, found)

    def _is_as_built(self, subnet: nn.Module) -> bool:
        snapshot = self._snapshots.get(subnet)  # only a subnet that was given out can have been changed
        return snapshot is None or (snapshot.is_current() and shares_weights(subnet))

    def _own_tensor(self, config: WidthConfig, *, statistics: bool = True) -> OwnTensor:
        """Finds what a config has of its own: statistics, and a switch its batch norms."""

        def own_tensor(name: str, tensor: Tensor, kept: Sequence[KeptIndices]) -> Tensor | None:
            own = None if self._switches is None else self._switches.own_tensor(config, name, tensor)
            if own is not None or not statistics or isinstance(tensor, nn.Parameter):
                return own
            own = self.own_buffers.own_tensor(config, name, tensor, kept)
            return self._statistics.own_tensor(config, name, tensor, kept) if own is None else own

        return own_tensor

    @property
    def frozen_norms(self) -> FrozenNorms:
        """What narrow widths do about batch norms that are in evaluation mode while the rest trains."""
        # Not the properties, which would look for changes of the model: a subnet that was given out stays what it was.
        if self._frozen_norms is None or self._frozen_norms.statistics is not self._statistics:
            self._frozen_norms = FrozenNorms(self.model, self._analysis, self._statistics)
        return self._frozen_norms

    def _guard(self, subnet: nn.Module, norms: Sequence[nn.Module], config: WidthConfig) -> None:
        # Under dynamo there is no error; the NaN statistics of an uncalibrated width speak for themselves.
        if torch.compiler.is_dynamo_compiling() or all(norm.training for norm in norms):
            return
        if subnet.training:
            self.frozen_norms.prepare(config, norms)
        elif not self._statistics.is_ready(config):
            self._statistics.check(config)


def _canonical(effects: ForwardEffects, analysis: Analysis) -> ForwardEffects:
    """The same effects, with the first name of every buffer."""
    norms = tuple((analysis.names[mean], analysis.names[variance]) for mean, variance in effects.norms)
    written, counters = (tuple(analysis.names[n] for n in names) for names in (effects.written, effects.counters))
    return replace(effects, norms=norms, written=written, counters=counters)


def _with_settings(analysis: Analysis, frozen: Sequence[str], ratios: Mapping[str, int]) -> Analysis:
    for pattern in (*frozen, *ratios):
        if not analysis.matching(pattern):
            known = ", ".join(group.name for group in analysis.groups[:8])
            raise WidthError(f"pattern {pattern!r} matches no channel group; some are: {known}")
    asked = {g.name: f"asked for by {p!r}" for p in frozen for g in analysis.matching(p)}
    analysis = analysis.freeze(asked)
    found: dict[str, int] = {}
    for pattern, ratio in ratios.items():
        for group in analysis.matching(pattern):
            if ratio < 1 or group.channels % ratio:
                raise WidthError(f"ratio {ratio} does not divide the {group.channels} channels of {group.name!r}")
            found.setdefault(group.name, ratio)
    return analysis.with_ratios(found)
