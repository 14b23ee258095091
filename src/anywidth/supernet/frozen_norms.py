"""Batch norms that are in evaluation mode while the rest of the network trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from anywidth.groups.analysis import Analysis
from anywidth.groups.narrow import take
from anywidth.supernet.record import record_of
from anywidth.supernet.statistics import Statistics, norm_modules
from anywidth.widths import WidthConfig

__all__ = ["FrozenNorms", "norms_of"]


class FrozenNorms:
    """Statistics of frozen batch norms in narrow widths.

    A frozen batch norm of a narrow width normalizes by the statistics that the width was calibrated with, whether or
    not weights have changed since. A width that was never calibrated uses a slice of the full network's running
    statistics. A width that trained with all of its batch norms frozen keeps its statistics: they count as up to date
    while optimizers step, because the weights were trained with them. They become out of date once weights change in
    another way, or a batch norm trains.
    """

    def __init__(self, model: nn.Module, analysis: Analysis, statistics: Statistics) -> None:
        self.model, self.analysis, self.statistics = model, analysis, statistics
        self._norms = norms_of(model, statistics)
        self._sources: dict[WidthConfig, tuple[int, ...]] = {}
        self._kept: list[WidthConfig] = []

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy starts from the copied statistics."""
        return FrozenNorms, (self.model, self.analysis, self.statistics)

    @property
    def any(self) -> bool:
        """Whether a batch norm of the full network is in evaluation mode."""
        return not all(norm.training for norm, _ in self._norms.values())

    @contextmanager
    def training_pass(self, config: WidthConfig, subnet: nn.Module) -> Iterator[None]:
        """Context manager in which a subnet trains with some of its batch norms frozen."""
        record = record_of(subnet)
        norms = [norm for norm, _ in norms_of(subnet, self.statistics).values()] if record is None else record.norms
        self.prepare(config, norms)
        with self.statistics.computing(config):
            yield

    @torch.no_grad()
    def prepare(self, config: WidthConfig, norms: Sequence[nn.Module]) -> None:
        """Make the statistics of a config ready for a training pass with frozen batch norms.

        Args:
            config: The width config.
            norms: The batch norms of its subnet, in the order of those of the full network.
        """
        if not self.statistics.is_calibrated(config):
            self._borrow(config, norms)
        if not any(norm.training for norm in norms):
            self.statistics.hold(config)
            _listen()
            _holding.add(self)

    def _borrow(self, config: WidthConfig, norms: Sequence[nn.Module]) -> None:
        """Give slices of the full network's running statistics to a config that was never calibrated."""
        blocks = self.analysis.blocks(config)
        values: dict[str, Tensor] = {}
        sources: list[int] = []
        for (name, (full, moments)), norm in zip(self._norms.items(), norms, strict=True):
            if norm.training:
                continue
            for moment in moments:
                canonical = self.analysis.names[f"{name}.{moment}" if name else moment]
                source = full._buffers[moment]
                assert source is not None
                values[canonical] = take(source.detach(), self.analysis.kept(canonical, blocks))
                sources += [id(source), source._version]
            # Kernels update running statistics without changing their versions, but they change this counter.
            counter = full._buffers.get("num_batches_tracked")
            sources.append(0 if counter is None else counter._version)
        # Tensors that autograd has saved must not be written to without need.
        if self._sources.get(config) != tuple(sources) or not self.statistics.is_borrowed(config):
            self.statistics.borrow(config, values)
            self._sources[config] = tuple(sources)

    def before_step(self) -> None:
        """Record which statistics are up to date before an optimizer steps."""
        self._kept = self.statistics.held() if not any(n.training for n, _ in self._norms.values()) else []

    def after_step(self) -> None:
        """Mark these statistics as up to date after the step."""
        self.statistics.keep(self._kept)
        self._kept = []


def norms_of(model: nn.Module, statistics: Statistics) -> dict[str, tuple[nn.Module, tuple[str, ...]]]:
    """The modules with running statistics and the names of their buffers, by path; handmade norms come last."""
    found = {name: (norm, ("running_mean", "running_var")) for name, norm in norm_modules(model).items()}
    own: dict[str, tuple[str, ...]] = {}
    for name in (name for pair in statistics.handmade for name in pair):
        path, _, moment = name.rpartition(".")
        own[path] = (*own.get(path, ()), moment)
    return found | {path: (model.get_submodule(path), moments) for path, moments in own.items()}


_holding: WeakSet[FrozenNorms] = WeakSet()


@cache
def _listen() -> None:
    def before(*_: Any) -> None:
        for norms in list(_holding):
            norms.before_step()

    def after(*_: Any) -> None:
        for norms in list(_holding):
            norms.after_step()

    register_optimizer_step_pre_hook(before)
    register_optimizer_step_post_hook(after)
