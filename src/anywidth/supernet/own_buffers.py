"""Buffers that forwards in training write, such as centres and counters: every width has its own values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from anywidth.groups.analysis import Analysis, Kept
from anywidth.groups.effects import ForwardEffects
from anywidth.groups.narrow import take
from anywidth.supernet.dense_copies import SubnetHook
from anywidth.widths import WidthConfig

__all__ = ["OwnBuffers", "batch_statistics", "kept_buffers", "registry_of", "stubborn"]

_KNOWN = ("torch", "timm", "torchvision", "transformers")
_Place = tuple[nn.Module, dict[str, Tensor], str]
"""A module, the dictionary of its buffers, and the name of one of them in it."""
_State = tuple[tuple[int, int], ...]
"""Identities and versions of tensors, which change when one is written or replaced."""


def registry_of(model: nn.Module, name: str) -> _Place:
    """Where a buffer of this name is registered in a module tree."""
    path, _, buffer = name.rpartition(".")
    module = model.get_submodule(path)
    return module, module._buffers, buffer  # type: ignore[return-value]


class OwnBuffers:
    """Running values of every width config: centres, counters, codebooks.

    A narrow width starts with its part of the full network's value, and follows it until the width itself runs in
    training mode, or writes in evaluation mode as well. From then on, forwards of the width move its own value and
    nobody else's.
    """

    def __init__(self, model: nn.Module, analysis: Analysis, effects: ForwardEffects) -> None:
        self.model, self.analysis = model, analysis
        self.names = frozenset(analysis.names[name] for name in effects.written)
        # The dictionaries, not the modules: a forward may put a new tensor in, and a subnet has to be let go of.
        self._registries: dict[WidthConfig, dict[str, tuple[dict[str, Tensor], str]]] = {}
        self._sources: dict[WidthConfig, _State] = {}
        self._copied: dict[WidthConfig, _State] = {}

    @property
    def configs(self) -> tuple[WidthConfig, ...]:
        """The configs that have values of their own, in the order of their first subnets."""
        return tuple(config for config in self._registries if self._has_own(config))

    def own_tensor(self, config: WidthConfig, name: str, tensor: Tensor, kept: Sequence[Kept]) -> Tensor | None:
        """A config's own value; None if the buffer is not written by forwards."""
        if name not in self.names:
            return None
        with torch.inference_mode(False):
            if self._has_own(config):
                registry, key = self._registries[config][name]
                return registry[key].detach().to(tensor)
            return take(tensor.detach(), kept).clone()

    def bind(self, config: WidthConfig, subnet: nn.Module) -> None:
        """Take the buffers of a new subnet as those of its config."""
        if not self.names:
            return
        places = {name: registry_of(subnet, name) for name in self.names}
        own = self._has_own(config)
        self._registries[config] = {name: (registry, key) for name, (_, registry, key) in places.items()}
        if not own:
            self._sources[config], self._copied[config] = self._source(), self._state(config)
        owners = list({id(module): module for module, _, _ in places.values()}.values())
        subnet.register_forward_pre_hook(SubnetHook(lambda _: self._before_forward(config, owners)))

    def values(self, config: WidthConfig) -> dict[str, Tensor]:
        """What a config has now, by the names of the buffers."""
        return {name: registry[key].detach() for name, (registry, key) in self._registries[config].items()}

    def store(self, config: WidthConfig, values: Mapping[str, Tensor]) -> None:
        """Take tensors (by buffer name) as a config's own values."""
        own = dict(values)
        self._registries[config] = {name: (own, name) for name in own}
        self._sources.pop(config, None)

    def forget(self, config: WidthConfig) -> None:
        """Drop a config that has no values of its own."""
        if config in self._registries and not self._has_own(config):
            del self._sources[config], self._registries[config]

    def _before_forward(self, config: WidthConfig, owners: Sequence[nn.Module]) -> None:
        if torch.compiler.is_dynamo_compiling() or self._has_own(config):
            return
        source = self._source()
        # Versions do not tell what was written through `.data`, so values are copied where no graph may hold them.
        if source != self._sources[config] or not torch.is_grad_enabled():
            self._follow(config)
            self._sources[config], self._copied[config] = source, self._state(config)
        if any(module.training for module in owners):
            del self._sources[config]

    @torch.no_grad()
    def _follow(self, config: WidthConfig) -> None:
        units = self.analysis.units(config)
        for name, (registry, key) in self._registries[config].items():
            _, full, own = registry_of(self.model, name)
            registry[key].copy_(take(full[own], self.analysis.kept(name, units)))

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


def _versions(tensors: Iterable[Tensor]) -> _State:
    return tuple((id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)


def batch_statistics(subnet: nn.Module, names: Iterable[str]) -> list[nn.Module]:
    """Let the batch norms written by hand in a subnet store no statistics while they train; the modules that own them.

    A forward gets other tensors to write to, so that those of the width stay as calibrated.
    """
    places = [registry_of(subnet, name) for name in names]
    owners = list({id(module): module for module, _, _ in places}.values())
    places += _ignoring(subnet)
    scratch: list[Tensor] = []

    def before(_: nn.Module) -> None:
        if torch.compiler.is_dynamo_compiling() or not any(module.training for module, _, _ in places):
            return
        scratch[:] = [registry[key] for _, registry, key in places]
        for module, registry, key in places:
            if module.training and registry[key] is not None:  # calibration takes counters away
                registry[key] = torch.zeros_like(registry[key])

    def after(_: nn.Module) -> None:
        for (_owner, registry, key), own in zip(places, scratch, strict=bool(scratch)):
            registry[key] = own
        scratch.clear()

    if places:
        subnet.register_forward_pre_hook(SubnetHook(before))
        subnet.register_forward_hook(SubnetHook(after), always_call=True)
    return owners


def _ignoring(subnet: nn.Module) -> list[_Place]:
    """Buffers of batch norms whose forward is the user's, and may store statistics although it was told not to."""
    return [
        (module, module._buffers, name)  # type: ignore[misc]
        for module in subnet.modules()
        if isinstance(module, _NormBase) and stubborn(module)
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def stubborn(norm: _NormBase) -> bool:
    """Whether the forward of a batch norm is the user's, and may write statistics although it was told not to.

    >>> stubborn(nn.BatchNorm1d(2))
    False
    """
    return type(norm).forward.__module__.partition(".")[0] not in _KNOWN


@contextmanager
def kept_buffers(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Context manager that lets a forward write to copies of buffers, and throws the copies away at the end."""
    places = [*(registry_of(model, name) for name in names), *_ignoring(model)]
    before = [registry[key] for _, registry, key in places]
    try:
        for (_, registry, key), tensor in zip(places, before, strict=True):
            registry[key] = tensor.clone()
        yield
    finally:
        for (_, registry, key), tensor in zip(places, before, strict=True):
            registry[key] = tensor
