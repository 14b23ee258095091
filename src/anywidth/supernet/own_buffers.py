"""Values that a forward writes in training: buffers with separate values per width, and counters that all share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from anywidth.groups.analysis import Analysis, KeptIndices
from anywidth.groups.effects import ForwardEffects
from anywidth.groups.narrow import take
from anywidth.supernet.hook import SubnetHook
from anywidth.supernet.record import record_of
from anywidth.widths import WidthConfig

__all__ = ["OwnBuffers", "batch_statistics", "kept_buffers", "registry_of", "stubborn"]

_KNOWN = ("torch", "timm", "torchvision", "transformers")
_Place = tuple[nn.Module, dict[str, Tensor], str]
"""A module, the dictionary of its buffers, and the name of one of them in it."""
_State = tuple[tuple[int, int], ...]
"""Identities and versions of tensors, which change when a tensor is written or replaced."""


def registry_of(model: nn.Module, name: str) -> _Place:
    """The place where a buffer with this name is registered in a module tree."""
    path, _, buffer = name.rpartition(".")
    module = model.get_submodule(path)
    return module, module._buffers, buffer  # type: ignore[return-value]


class OwnBuffers:
    """Running values of every width config, such as centres and codebooks, and counters that all widths share.

    A narrow width starts with its slice of the full network's value, and follows it until the width itself runs in
    training mode, or writes in evaluation mode. From then on, forwards of the width update only its own value.

    Buffers whose new value depends on neither inputs nor weights, such as a number of steps, are shared by all widths,
    and so are plain attributes of that kind, such as a temperature that every forward lowers.
    """

    def __init__(self, model: nn.Module, analysis: Analysis, effects: ForwardEffects) -> None:
        self.model, self.analysis = model, analysis
        self.counters = frozenset(analysis.names[name] for name in effects.counters)
        self.numbers = tuple(effects.numbers)
        self.names = frozenset(analysis.names[name] for name in effects.written) - self.counters
        # The dictionaries, not the modules: a forward may put a new tensor in, and a subnet has to be let go of.
        self._registries: dict[WidthConfig, dict[str, tuple[dict[str, Tensor], str]]] = {}
        self._sources: dict[WidthConfig, _State] = {}
        self._copied: dict[WidthConfig, _State] = {}

    @property
    def configs(self) -> tuple[WidthConfig, ...]:
        """The configs with separate values, in the order of their first subnets."""
        return tuple(config for config in self._registries if self._has_own(config))

    def own_tensor(self, config: WidthConfig, name: str, tensor: Tensor, kept: Sequence[KeptIndices]) -> Tensor | None:
        """A config's value; None if forwards do not write to the buffer."""
        if name not in self.names:
            return None
        with torch.inference_mode(False):
            if self._has_own(config):
                registry, key = self._registries[config][name]
                return registry[key].detach().to(tensor)
            return take(tensor.detach(), kept).clone()

    def bind(self, config: WidthConfig, subnet: nn.Module) -> None:
        """Take the buffers of a new subnet as those of its config."""
        if self.counters or self.numbers:
            self._share_counters(subnet)
        if not self.names:
            return
        places = {name: registry_of(subnet, name) for name in self.names}
        own = self._has_own(config)
        self._registries[config] = {name: (registry, key) for name, (_, registry, key) in places.items()}
        if not own:
            self._sources[config], self._copied[config] = self._source(), self._state(config)
        owners = list({id(module): module for module, _, _ in places.values()}.values())
        subnet.register_forward_pre_hook(SubnetHook(lambda _: self._before_forward(config, owners)))

    def _share_counters(self, subnet: nn.Module) -> None:
        """Make forwards of a subnet read and write the counters of the full network."""
        places = {name: _place_of(subnet, name) for name in (*sorted(self.counters), *self.numbers)}

        def before(subnet: nn.Module) -> None:
            if not torch.compiler.is_dynamo_compiling() and not _repeats(subnet):
                for name, (registry, key) in places.items():
                    full, own = _place_of(self.model, name)
                    registry[key] = full[own]

        def after(subnet: nn.Module) -> None:
            if not torch.compiler.is_dynamo_compiling() and not _repeats(subnet):
                for name, (registry, key) in places.items():
                    full, own = _place_of(self.model, name)
                    full[own] = registry[key]

        subnet.register_forward_pre_hook(SubnetHook(before))
        subnet.register_forward_hook(SubnetHook(after))

    def counts(self) -> dict[str, Tensor | float]:
        """Copies of the counters, by name."""
        places = {name: registry_of(self.model, name)[1:] for name in self.counters}
        buffers = {name: registry[key].clone() for name, (registry, key) in places.items()}
        numbers = {name: _place_of(self.model, name) for name in self.numbers}
        return {**buffers, **{name: owner[key] for name, (owner, key) in numbers.items()}}

    @contextmanager
    def repeated(self, network: nn.Module, counts: Mapping[str, Tensor | float]) -> Iterator[None]:
        """Context manager in which a network starts from `counts`; at its end the counters are as before.

        Args:
            network: A subnet, or the model.
            counts: The result of `counts` before the first pass of a training step.
        """
        if not counts:
            yield
            return
        tensors = {name: value for name, value in counts.items() if isinstance(value, Tensor)}
        numbers = [(*_place_of(network, name), value) for name, value in counts.items() if name not in tensors]
        own = [owner[key] for owner, key, _ in numbers]
        with kept_buffers(network, tensors) as places:
            for (_, registry, key), value in zip(places, tensors.values(), strict=False):
                registry[key].copy_(value)
            for owner, key, value in numbers:
                owner[key] = value
            record = record_of(network)  # None for the model, which has no hooks that share counters
            try:
                if record is not None:
                    record.repeats = True
                yield
            finally:
                if record is not None:
                    record.repeats = False
                for (owner, key, _), value in zip(numbers, own, strict=True):
                    owner[key] = value

    def values(self, config: WidthConfig) -> dict[str, Tensor]:
        """The current values of a config, by the names of the buffers."""
        return {name: registry[key].detach() for name, (registry, key) in self._registries[config].items()}

    def store(self, config: WidthConfig, values: Mapping[str, Tensor]) -> None:
        """Store tensors (by buffer name) as a config's values."""
        own = dict(values)
        self._registries[config] = {name: (own, name) for name in own}
        self._sources.pop(config, None)

    def forget(self, config: WidthConfig) -> None:
        """Drop a config that has no separate values."""
        if config in self._registries and not self._has_own(config):
            del self._sources[config], self._registries[config]

    def _before_forward(self, config: WidthConfig, owners: Sequence[nn.Module]) -> None:
        if torch.compiler.is_dynamo_compiling() or self._has_own(config):
            return
        source = self._source()
        # Versions do not show writes through `.data`, so values are copied if no graph may refer to them.
        if source != self._sources[config] or not torch.is_grad_enabled():
            self._follow(config)
            self._sources[config], self._copied[config] = source, self._state(config)
        if any(module.training for module in owners):
            del self._sources[config]

    @torch.no_grad()
    def _follow(self, config: WidthConfig) -> None:
        blocks = self.analysis.blocks(config)
        for name, (registry, key) in self._registries[config].items():
            _, full, own = registry_of(self.model, name)
            registry[key].copy_(take(full[own], self.analysis.kept(name, blocks)))

    def _has_own(self, config: WidthConfig) -> bool:
        """Whether a config has trained, or has written to its buffers since they were copied."""
        if config in self._sources and self._state(config) != self._copied[config]:
            del self._sources[config]
        return config in self._registries and config not in self._sources

    def _state(self, config: WidthConfig) -> _State:
        return _versions(registry[key] for registry, key in self._registries[config].values())

    def _source(self) -> _State:
        places = (registry_of(self.model, name) for name in sorted(self.names))
        return _versions(registry[key] for _, registry, key in places)


def _repeats(subnet: nn.Module) -> bool:
    record = record_of(subnet)
    return record is not None and record.repeats


def _place_of(model: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """The dictionary that holds a buffer or a plain attribute, and its name there."""
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    return module._buffers if last in module._buffers else module.__dict__, last


def _versions(tensors: Iterable[Tensor]) -> _State:
    return tuple((id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)


def batch_statistics(subnet: nn.Module, names: Iterable[str]) -> None:
    """Stop the handmade batch norms of a subnet from storing statistics in training.

    The forward writes to temporary tensors, so that those of the width stay calibrated.
    """
    places = [*(registry_of(subnet, name) for name in names), *_ignoring(subnet)]
    scratch: list[Tensor] = []

    def before(_: nn.Module) -> None:
        if torch.compiler.is_dynamo_compiling() or not any(module.training for module, _, _ in places):
            return
        scratch[:] = [registry[key] for _, registry, key in places]
        for module, registry, key in places:
            if module.training and registry[key] is not None:  # calibration removes counters
                registry[key] = torch.zeros_like(registry[key])

    def after(_: nn.Module) -> None:
        for (_owner, registry, key), own in zip(places, scratch, strict=bool(scratch)):
            registry[key] = own
        scratch.clear()

    if places:
        subnet.register_forward_pre_hook(SubnetHook(before))
        subnet.register_forward_hook(SubnetHook(after), always_call=True)


def _ignoring(subnet: nn.Module) -> list[_Place]:
    """Buffers of batch norms with a user's forward, which may store statistics even if told not to."""
    return [
        (module, module._buffers, name)  # type: ignore[misc]
        for module in subnet.modules()
        if isinstance(module, _NormBase) and stubborn(module)
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def stubborn(norm: _NormBase) -> bool:
    """Whether a batch norm has a user's forward, which may write statistics even if told not to.

    >>> stubborn(nn.BatchNorm1d(2))
    False
    """
    return type(norm).forward.__module__.partition(".")[0] not in _KNOWN


@contextmanager
def kept_buffers(model: nn.Module, names: Iterable[str]) -> Iterator[list[_Place]]:
    """Context manager in which a forward writes to temporary copies of buffers; returns their places, as in `names`."""
    places = [*(registry_of(model, name) for name in names), *_ignoring(model)]
    before = [registry[key] for _, registry, key in places]
    try:
        for (_, registry, key), tensor in zip(places, before, strict=True):
            registry[key] = tensor.clone()
        yield places
    finally:
        for (_, registry, key), tensor in zip(places, before, strict=True):
            registry[key] = tensor
