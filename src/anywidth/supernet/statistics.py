"""Batch-norm statistics by width config, and whether they are up to date."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from anywidth.core.errors import UncalibratedError
from anywidth.groups.analysis import KeptIndices
from anywidth.groups.narrow import take
from anywidth.supernet.hook_effects import HookKey, forward_hooks
from anywidth.supernet.weight_changes import WeightSamples, weight_digest
from anywidth.widths import WidthConfig

__all__ = ["Statistics", "norm_modules"]

_BUFFERS = ("running_mean", "running_var")


def norm_modules(model: nn.Module) -> dict[str, nn.modules.batchnorm._NormBase]:
    """The modules of a network with running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    }


class Statistics:
    """Running means and variances of every calibrated width config of one network.

    A config that was never calibrated has NaN instead, so that it cannot produce plausible wrong numbers. `handmade`
    names the running mean and variance of batch norms that are not modules of torch: buffers that a forward passes to
    `F.batch_norm`. Statistics are out of date as soon as any weight has changed, according to a digest of all weights.
    A forward of a subnet only compares version counters and a few numbers of every tensor, which takes microseconds.
    """

    def __init__(self, model: nn.Module, handmade: Iterable[tuple[str, str]] = ()) -> None:
        self.model = model
        self.handmade = tuple(handmade)
        self.names = {name for pair in self.handmade for name in pair} | {
            f"{name}.{buffer}" if name else buffer
            for name, module in model.named_modules(remove_duplicate=False)
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
            for buffer in _BUFFERS
        }
        self._stored: dict[WidthConfig, dict[str, Tensor]] = {}
        self._digests: dict[WidthConfig, bytes | None] = {}
        self._computing: set[WidthConfig] = set()
        self._running: set[WidthConfig] = set()
        self._held: set[WidthConfig] = set()
        self._borrowed: set[WidthConfig] = set()
        self._trusted: dict[WidthConfig, tuple[list[int], list[object]]] = {}
        self._hooks: dict[WidthConfig, frozenset[HookKey]] = {}
        self._set_weights()

    def __getstate__(self) -> dict[str, Any]:
        """The state without references to memory of this process."""
        self.current()  # replaces references to memory by digests
        left_out = {"_weights", "_samples", "_known", "_dtypes", "_trusted"}
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the result of `__getstate__`."""
        self.__dict__.update(state)
        self._trusted = {}
        self._set_weights()

    def _set_weights(self) -> None:
        self._weights: list[nn.Parameter] = []
        self._samples: WeightSamples | None = None
        self._known: tuple[tuple[list[int], list[object]], bytes] | None = None
        self._dtypes: list[torch.dtype] = []
        self.forget_weights()

    def forget_weights(self) -> None:
        """Read the model's parameters again, because they were replaced or moved."""
        weights = list(self.model.parameters())
        if len(weights) != len(self._weights) or any(a is not b for a, b in zip(weights, self._weights, strict=True)):
            self._known = None
        self._weights, self._samples = weights, None

    def outdate(self) -> None:
        """Mark all calibrated statistics as out of date, because the network's function has changed."""
        self._digests = dict.fromkeys(self._digests)
        self._trusted.clear()

    def fit_hooks(self, changing: Set[HookKey]) -> None:
        """Mark statistics as out of date that were calibrated with other hooks, of those that change numbers."""
        if changing:
            present = forward_hooks(self.model)
            others = [config for config, hooks in self._hooks.items() if (hooks ^ present) & changing]
            for config in others:
                if config in self._digests:
                    self._digests[config] = None
                self._trusted.pop(config, None)

    def share(self, names: Iterable[str]) -> None:
        """Declare that all widths share some buffers with the full network, as in the body of a nested one."""
        self.names = self.names - set(names)

    @property
    def needed(self) -> bool:
        """Whether the network has batch-norm statistics at all."""
        return bool(self.names)

    @property
    def configs(self) -> tuple[WidthConfig, ...]:
        """The calibrated configs, in the order of calibration."""
        return tuple(self._digests)

    def __getitem__(self, config: WidthConfig) -> Mapping[str, Tensor]:
        return self._stored[config]

    def own_tensor(self, config: WidthConfig, name: str, buffer: Tensor, kept: Sequence[KeptIndices]) -> Tensor | None:
        """A config's running mean or variance; None if the buffer is neither."""
        if name not in self.names:
            return None
        stored = self._stored.setdefault(config, {})
        with torch.inference_mode(False):  # inference tensors cannot be written to later
            if name not in stored:
                stored[name] = torch.full_like(take(buffer, kept), float("nan"))
            elif stored[name].device != buffer.device or stored[name].dtype != buffer.dtype:
                stored[name] = stored[name].to(buffer)
        return stored[name]

    def store(self, config: WidthConfig, values: Mapping[str, Tensor]) -> None:
        """Store tensors (by buffer name) as a config's statistics, in place so that its subnets see them."""
        stored = self._stored.setdefault(config, {})
        with torch.inference_mode(False):
            for name, value in values.items():
                if name in stored:
                    stored[name].copy_(value)
                else:
                    stored[name] = value.clone()
        self._let_go(config)
        self._hooks[config] = forward_hooks(self.model)
        if config not in self._running:
            self._digests[config] = self._digest()

    def is_calibrated(self, config: WidthConfig) -> bool:
        """Whether a config has separate statistics, up to date or not."""
        return config in self._running or (config in self._digests and config not in self._borrowed)

    def is_borrowed(self, config: WidthConfig) -> bool:
        """Whether a config uses slices of the full network's statistics."""
        return config in self._borrowed

    def borrow(self, config: WidthConfig, values: Mapping[str, Tensor]) -> None:
        """Give a config slices of the full network's statistics, without making it calibrated; see `FrozenNorms`."""
        stored = self._stored.setdefault(config, {})
        for name, value in values.items():
            if name in stored:
                stored[name].copy_(value)
            else:
                stored[name] = value.clone()
        self._borrowed.add(config)

    def hold(self, config: WidthConfig) -> None:
        """Declare that a config's statistics are fixed, and fit the weights that are trained with them."""
        if config not in self._running:
            self._held.add(config)
            self.keep([config])

    def held(self) -> list[WidthConfig]:
        """The configs with fixed statistics that are up to date."""
        return [config for config in self._held if self.is_ready(config)]

    def keep(self, configs: Iterable[WidthConfig]) -> None:
        """Declare that the statistics of some configs fit the present weights."""
        for config in configs:
            self._digests[config] = None
            # A digest takes as long as copying the weights, so it is computed on demand.
            self._trusted[config] = self._marks()
            self._hooks[config] = forward_hooks(self.model)

    def _let_go(self, config: WidthConfig) -> None:
        self._digests.pop(config, None)
        self._trusted.pop(config, None)
        self._hooks.pop(config, None)
        self._held.discard(config)
        self._borrowed.discard(config)

    def adopt(self, config: WidthConfig) -> None:
        """Declare that training updates a config's statistics as running averages, so they are always up to date."""
        self._running.add(config)
        self._stored.pop(config, None)
        self._let_go(config)

    def forget(self, config: WidthConfig) -> None:
        """Drop the tensors of a config that was never calibrated."""
        if not self.is_calibrated(config):
            self._stored.pop(config, None)
            self._let_go(config)

    def is_current(self, config: WidthConfig) -> bool:
        """Whether a config was calibrated with the present weights."""
        return config in self._running or config in self.current()

    def current(self) -> tuple[WidthConfig, ...]:
        """The configs that were calibrated with the present weights, in the order of calibration."""
        marks = self._marks() if self._trusted else None
        digest = self._digest() if self._trusted or any(self._digests.values()) else None
        self._digests.update({config: digest for config, known in self._trusted.items() if known == marks})
        return tuple(config for config, known in self._digests.items() if known is not None and known == digest)

    def is_usable(self, config: WidthConfig) -> bool:
        """Whether a config can run in evaluation mode: it is up to date, or needs no statistics."""
        return not self.names or config in self._computing or self.is_current(config)

    def is_ready(self, config: WidthConfig) -> bool:
        """As `is_usable`, but faster: weights that appear unchanged are not compared one by one."""
        if not self.names or config in self._computing or config in self._running:
            return True
        if config in self._trusted and self._trusted[config] == self._marks():
            return True
        known = self._digests.get(config)
        if known is None:
            return False
        digest = self._digest() if self._known is None or self._known[0] != self._marks() else self._known[1]
        return known == digest

    @contextmanager
    def computing(self, config: WidthConfig) -> Iterator[None]:
        """Context manager in which a config may run without statistics, because they are being computed."""
        self._computing.add(config)
        try:
            yield
        finally:
            self._computing.discard(config)

    def check(self, config: WidthConfig) -> None:
        """Raise unless a config's statistics are known and up to date."""
        if self.is_usable(config):
            return
        known = ", ".join(map(str, self.current())) or "none"
        state = (
            "has batch-norm statistics from before the weights changed, or hooks or attributes of the model"
            if config in self._digests
            else "has no batch-norm statistics"
        )
        raise UncalibratedError(
            f"width {config} {state}; calibrated: {known}. Run anywidth.calibrate(net, loader, widths=[{config}]) first"
        )

    def _digest(self) -> bytes:
        """The digest of the present weights."""
        before, dtypes = self._known, [weight.dtype for weight in self._weights]
        digest = weight_digest(self._weights)
        marks = self._marks()
        if before is not None and dtypes != self._dtypes and before[0][0] == marks[0]:
            # Moved to another precision but not written to: the statistics remain valid.
            self._digests = {c: digest if known == before[1] else known for c, known in self._digests.items()}
        self._known, self._dtypes = (marks, digest), dtypes
        return digest

    def _marks(self) -> tuple[list[int], list[object]]:
        """Values that change with almost every write: version counters, addresses and a few numbers."""
        if self._samples is None or not self._samples.fits(self._weights):
            self._samples = WeightSamples(self._weights)
        return list(map(_version, self._weights)), [*self._samples.places, *self._samples.read()]


_version = attrgetter("_version")
