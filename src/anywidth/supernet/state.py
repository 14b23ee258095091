"""What is known of the model of a supernet, and what its widths have of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from torch import Tensor, nn

from anywidth.core.errors import WidthError
from anywidth.core.inputs import Inputs
from anywidth.groups import Analysis
from anywidth.groups.analysis import KeptIndices
from anywidth.groups.effects import ForwardEffects, forward_effects
from anywidth.groups.untouched import untouched
from anywidth.supernet.frozen_norms import FrozenNorms
from anywidth.supernet.input_rescaling import rescaled_layers
from anywidth.supernet.own_buffers import OwnBuffers
from anywidth.supernet.settings import SupernetSettings
from anywidth.supernet.shells import Shells
from anywidth.supernet.statistics import Statistics
from anywidth.supernet.subnet import OwnTensor
from anywidth.supernet.switches import Switches, check_distinct
from anywidth.widths import Width, WidthConfig, check_width, resolve

__all__ = ["SupernetState"]


class SupernetState:
    """What follows from one analysis of a model; a model that is analysed again gets a new one.

    Args:
        model: The model.
        inputs: Example inputs.
        analysis: Its analysis, without the settings.
        settings: The settings.

    Attributes:
        model: As above.
        inputs: As above.
        settings: As above.
        analysis: The analysis with frozen groups and ratios.
        effects: Side effects of a forward.
        statistics: Batch-norm statistics by config.
        own_buffers: Other buffers with separate values by config.
        rescaled_layers: Paths of the layers whose inputs are rescaled.
        switches: The switches; None for a network without them, and before `fix_widths`.
        shells: The shells; None for a network that is not nested, and before `fix_widths`.
        full: The config of the full width.

    Raises:
        WidthError: the settings do not fit the model.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, analysis: Analysis, settings: SupernetSettings) -> None:
        self.model, self.inputs, self.settings = model, inputs, settings
        self.analysis = settings.applied_to(analysis)
        with untouched(model):
            self.effects = _canonical(forward_effects(model, inputs), self.analysis)
        self.statistics = Statistics(model, self.effects.norms)
        self.own_buffers = OwnBuffers(model, self.analysis, self.effects)
        self.rescaled_layers = rescaled_layers(model, self.analysis) if settings.average_inputs else ()
        self.switches: Switches | None = None
        self.shells: Shells | None = None
        self.full = self._resolve(1.0)
        self._configs: dict[float, WidthConfig] = {}

    @cached_property
    def frozen_norms(self) -> FrozenNorms:
        """Statistics of narrow widths for batch norms that are in evaluation mode while the rest trains."""
        return FrozenNorms(self.model, self.analysis, self.statistics)

    # -- fixed widths ----------------------------------------------------------------------------------

    def fixed_configs(self) -> dict[WidthConfig, float]:
        """The only widths of the network by their configs, in ascending order; empty for one of any width.

        Raises:
            WidthError: two of them are the same network.
        """
        pairs = [(width, self._resolve(width)) for width in self.settings.fixed]
        check_distinct(pairs)
        return {config: width for width, config in pairs}

    def fix_widths(self) -> None:
        """Make the switches or shells of the settings from the present weights of the model.

        Raises:
            AnalysisError: the model cannot be nested.
            WidthError: the model cannot have switches.
        """
        fixed = self.fixed_configs()
        if self.settings.nested is not None:
            self.shells = Shells(self.model, self.inputs, self.analysis, fixed)
            self.statistics.share(self.statistics.names - self.shells.nesting.tail)
        elif self.settings.switches is not None:
            if self.effects.norms:
                raise WidthError(
                    f"every switch has its own batch norms, and {self.effects.norms[0][0]} is the running mean of one "
                    "that is not a module of torch: use nn.BatchNorm1d, 2d or 3d there, or leave switches out"
                )
            affine = self.settings.switch_affine
            switches = Switches(self.model, self.analysis, self.statistics, affine=affine)
            for config, width in fixed.items():
                switches.add(width, config)
            self.switches = switches

    def add_switch(self, width: float) -> None:
        """Add a switch; see `Supernet.add_switch`."""
        if self.switches is None:
            raise WidthError("this network has no switches to add one to; make it with Supernet(..., switches=...)")
        check_width(width, what="switch")
        low = min(width, self.settings.min_width)
        config = resolve(self.analysis.elastic, float(width), divisor=self.settings.divisor, min_width=low)
        wider = next((c for c, known in self.switches.widths.items() if known > width), None)
        self.switches.add(float(width), config, wider)
        self.settings = replace(self.settings, switches=tuple(self.switches.widths.values()))

    # -- configs ---------------------------------------------------------------------------------------

    def config(self, width: Width) -> WidthConfig:
        """The config of a width; see `Supernet.config`."""
        if isinstance(width, float) and width in self._configs:
            return self._configs[width]
        config = self._resolve(width)
        if config.label is None:
            config = self._labelled(config)
        if self.switches is not None:
            self.switches.check_config(config)
        if self.shells is not None:
            self.shells.check_config(config)
        if isinstance(width, float) and len(self._configs) < 4096:
            self._configs[width] = config
        return config

    def _resolve(self, width: Width) -> WidthConfig:
        frozen = [group for group in self.analysis.groups if group.frozen]
        return resolve(
            self.analysis.elastic,
            width,
            divisor=self.settings.divisor,
            min_width=self.settings.min_width,
            frozen=frozen,
        )

    def _labelled(self, config: WidthConfig) -> WidthConfig:
        """A known config with the same channels and a label, or the config itself."""
        known = (*self.statistics.configs, *self._configs.values())
        same = [each for each in known if each == config and each.label is not None]
        # Of several widths that round to it, the random ones are long.
        return min(same, key=lambda each: len(str(each)), default=config)

    # -- what a config has of its own ------------------------------------------------------------------

    def own_tensor(self, config: WidthConfig, *, statistics: bool = True) -> OwnTensor:
        """Finds the tensors that a config does not share: its statistics, and the batch norms of a switch."""

        def own_tensor(name: str, tensor: Tensor, kept: Sequence[KeptIndices]) -> Tensor | None:
            own = None if self.switches is None else self.switches.own_tensor(config, name, tensor)
            if own is not None or not statistics or isinstance(tensor, nn.Parameter):
                return own
            own = self.own_buffers.own_tensor(config, name, tensor, kept)
            return self.statistics.own_tensor(config, name, tensor, kept) if own is None else own

        return own_tensor

    def forget(self, config: WidthConfig) -> None:
        """Drop the tensors of a config that has neither been calibrated nor trained."""
        self.statistics.forget(config)
        self.own_buffers.forget(config)


def _canonical(effects: ForwardEffects, analysis: Analysis) -> ForwardEffects:
    """The same effects, with the first name of every buffer."""
    norms = tuple((analysis.names[mean], analysis.names[variance]) for mean, variance in effects.norms)
    written, counters = (tuple(analysis.names[n] for n in names) for names in (effects.written, effects.counters))
    return replace(effects, norms=norms, written=written, counters=counters)
