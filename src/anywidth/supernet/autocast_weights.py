"""Weights of subnets in the precision of autocast."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from anywidth.core.modules import model_device
from anywidth.supernet.record import record_of

if TYPE_CHECKING:
    from anywidth.supernet.supernet import Supernet

__all__ = ["castable", "record_autocast"]

_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
"""Modules whose weight autocast casts, if they have torch's forward."""


@contextmanager
def record_autocast(net: Supernet, network: nn.Module) -> Iterator[None]:
    """Context manager that records which layers a forward of a width calls under autocast, which it may turn off."""
    device = model_device(net.model).type
    compiled = getattr(network, "_compiled_call_impl", None) is not None  # hooks would make it compile again
    if net._tracked.autocast_layers is not None or compiled or not _autocasts(device):
        yield
        return
    calls: dict[str, list[bool]] = defaultdict(list)
    handles = [
        layer.register_forward_pre_hook(lambda *_, name=name: calls[name].append(_autocasts(device)))
        for name, layer in network.named_modules()
        if type(layer) in _LAYERS
    ]
    try:
        yield
        # Gradients of several calls would add up in low precision.
        net._tracked.autocast_layers = frozenset(name for name, autocasts in calls.items() if autocasts == [True])
    finally:
        for handle in handles:
            handle.remove()


def castable(net: Supernet, subnet: nn.Module, device: str) -> Sequence[nn.Parameter]:
    """The parameters of a subnet that are slices and are read by one layer, once and under autocast.

    Autocast would cast them anyway. Casting them while slicing reads them once instead of twice, and likewise their
    gradients. Without autocast, or before a call was recorded, the result is empty.
    """
    names = net._tracked.autocast_layers
    record = record_of(subnet)
    if names is None or record is None or not _autocasts(device):
        return ()
    known = record.castable
    if known is None or known[0] is not names:
        readers: dict[int, list[bool]] = defaultdict(list)
        for name, module in subnet.named_modules():
            for kind, parameter in module._parameters.items():
                readers[id(parameter)].append(kind == "weight" and name in names)
        known = record.castable = names, [leaf for leaf in record.router.leading if readers[id(leaf)] == [True]]
    return known[1]


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # pyright: ignore[reportPrivateImportUsage]
