"""Batch-norm statistics by width config: which are known, and whether they still fit the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from anywidth.errors import UncalibratedError
from anywidth.groups.analysis import Kept
from anywidth.groups.narrow import take
from anywidth.widths import WidthConfig

__all__ = ["Statistics", "norm_modules"]

_BUFFERS = ("running_mean", "running_var")


def norm_modules(model: nn.Module) -> dict[str, nn.modules.batchnorm._NormBase]:
    """The modules of a network that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    }


class Statistics:
    """Running means and variances of every calibrated width config of one network.

    A config that was never calibrated has NaN in its place, so that no path to a plausible wrong number is left
    open. `handmade` names the running mean and variance of batch norms that are not modules of torch: buffers that a
    forward gives to `F.batch_norm`. Statistics are out of date as soon as any weight has changed (other than through
    `.data`, of which nothing can know).
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
        self._registers = [module._parameters for module in model.modules() if module._parameters]
        self._stored: dict[WidthConfig, dict[str, Tensor]] = {}
        self._versions: dict[WidthConfig, int] = {}
        self.labels: dict[WidthConfig, str] = {}
        self._computing: set[WidthConfig] = set()
        self._running: set[WidthConfig] = set()
        self._held: set[WidthConfig] = set()
        self._borrowed: set[WidthConfig] = set()

    @property
    def needed(self) -> bool:
        """Whether the network has batch-norm statistics at all."""
        return bool(self.names)

    @property
    def configs(self) -> tuple[WidthConfig, ...]:
        """The calibrated configs, in the order of calibration."""
        return tuple(self._versions)

    def __getitem__(self, config: WidthConfig) -> Mapping[str, Tensor]:
        return self._stored[config]

    def private(self, config: WidthConfig, name: str, buffer: Tensor, kept: Sequence[Kept]) -> Tensor | None:
        """A config's own running mean or variance; None if the buffer is not one."""
        if name not in self.names:
            return None
        stored = self._stored.setdefault(config, {})
        with torch.inference_mode(False):  # inference tensors could not be written to afterwards
            if name not in stored:
                stored[name] = torch.full_like(take(buffer, kept), float("nan"))
            elif stored[name].device != buffer.device or stored[name].dtype != buffer.dtype:
                stored[name] = stored[name].to(buffer)
        return stored[name]

    def store(self, config: WidthConfig, values: Mapping[str, Tensor], label: str) -> None:
        """Take tensors (by buffer name) as a config's statistics, in place so that its subnets see them."""
        stored = self._stored.setdefault(config, {})
        with torch.inference_mode(False):
            for name, value in values.items():
                if name in stored:
                    stored[name].copy_(value)
                else:
                    stored[name] = value.clone()
        self.labels[config] = label
        self._versions.pop(config, None)
        self._held.discard(config)
        self._borrowed.discard(config)
        if config not in self._running:
            self._versions[config] = self._version()

    def is_calibrated(self, config: WidthConfig) -> bool:
        """Whether a config has statistics of its own, up to date or not."""
        return config in self._running or (config in self._versions and config not in self._borrowed)

    def is_borrowed(self, config: WidthConfig) -> bool:
        """Whether a config has parts of the full network's statistics."""
        return config in self._borrowed

    def borrow(self, config: WidthConfig, values: Mapping[str, Tensor]) -> None:
        """Give a config parts of the full network's statistics, which do not make it calibrated; see `FrozenNorms`."""
        stored = self._stored.setdefault(config, {})
        for name, value in values.items():
            if name in stored:
                stored[name].copy_(value)
            else:
                stored[name] = value.clone()
        self._borrowed.add(config)

    def hold(self, config: WidthConfig, label: str) -> None:
        """Take it that a config's statistics are fixed, and fit the weights that are trained with them."""
        if config not in self._running:
            self._held.add(config)
            self.labels.setdefault(config, label)
            self._versions[config] = self._version()

    def held(self) -> list[WidthConfig]:
        """The configs with fixed statistics that are up to date."""
        version = self._version()
        return [config for config in self._held if self._versions.get(config) == version]

    def keep(self, configs: Iterable[WidthConfig]) -> None:
        """Take it that the statistics of some configs fit the weights as they are now."""
        version = self._version()
        for config in configs:
            self._versions[config] = version

    def adopt(self, config: WidthConfig, label: str) -> None:
        """Take it that training keeps a config's statistics as running averages, so that they are never out of date."""
        self._running.add(config)
        self._stored.pop(config, None)
        self._versions.pop(config, None)
        self.labels[config] = label

    def forget(self, config: WidthConfig) -> None:
        """Drop the tensors of a config that was never calibrated."""
        if not self.is_calibrated(config):
            self._stored.pop(config, None)
            self._versions.pop(config, None)
            self._held.discard(config)
            self._borrowed.discard(config)

    def is_current(self, config: WidthConfig) -> bool:
        """Whether a config was calibrated with the weights as they are now."""
        return config in self._running or self._versions.get(config) == self._version()

    def is_usable(self, config: WidthConfig) -> bool:
        """Whether a config can run in evaluation mode: it is up to date, or needs no statistics."""
        return not self.names or self.is_current(config) or config in self._computing

    @contextmanager
    def computing(self, config: WidthConfig) -> Iterator[None]:
        """Within it, a config may run without statistics, because they are being computed."""
        self._computing.add(config)
        try:
            yield
        finally:
            self._computing.discard(config)

    def check(self, config: WidthConfig, label: str) -> None:
        """Raise unless a config's statistics are known and up to date."""
        if self.is_usable(config):
            return
        known = ", ".join(self.labels[c] for c in self.configs if self.is_current(c)) or "none"
        state = (
            "has batch-norm statistics from before the weights changed"
            if config in self._versions
            else "has no batch-norm statistics"
        )
        raise UncalibratedError(
            f"width {label} {state}; calibrated: {known}. Run anywidth.calibrate(net, loader, widths=[{label}]) first"
        )

    def _version(self) -> int:
        # Not named_parameters(): this runs before every forward pass of a subnet.
        parameters = (parameter for register in self._registers for parameter in register.values())
        return hash(tuple((id(p), p._version) for p in parameters if p is not None))
