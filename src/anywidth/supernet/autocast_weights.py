"""Weights of subnets in the precision that autocast computes with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

from anywidth.core.modules import model_device
from anywidth.supernet.subnet import leading_leaves

__all__ = ["castable", "forget_autocast", "record_autocast"]

_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
"""Autocast casts the weight of these, if their forward is their own."""

_recorded: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()
"""Per supernet's model: the names of the layers that a forward calls once, under autocast."""
_castable: WeakKeyDictionary[nn.Module, tuple[frozenset[str], list[nn.Parameter]]] = WeakKeyDictionary()
"""Per subnet: what was found for such names."""


@contextmanager
def record_autocast(model: nn.Module, network: nn.Module) -> Iterator[None]:
    """Context manager that records which layers of `model` a forward calls under autocast, which it may turn off."""
    device = model_device(model).type
    compiled = getattr(network, "_compiled_call_impl", None) is not None  # it would be compiled again for the hooks
    if model in _recorded or compiled or not _autocasts(device):
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
        _recorded[model] = frozenset(name for name, autocasts in calls.items() if autocasts == [True])
    finally:
        for handle in handles:
            handle.remove()


def forget_autocast(model: nn.Module) -> None:
    """Drop the record of a model, because its modules have changed."""
    _recorded.pop(model, None)


def castable(model: nn.Module, subnet: nn.Module, device: str) -> Sequence[nn.Parameter]:
    """The parameters of a subnet that one layer reads, once and under autocast, and that are parts of larger ones.

    Autocast would cast them anyway. Who does so while cutting them out passes over them once instead of twice, and over
    their gradients as well. Without autocast, or before a call was recorded, there are none.
    """
    names = _recorded.get(model)
    if names is None or not _autocasts(device):
        return ()
    known = _castable.get(subnet)
    if known is None or known[0] is not names:
        readers: dict[int, list[bool]] = defaultdict(list)
        for name, module in subnet.named_modules():
            for kind, parameter in module._parameters.items():
                readers[id(parameter)].append(kind == "weight" and name in names)
        known = _castable[subnet] = names, [leaf for leaf in leading_leaves(subnet) if readers[id(leaf)] == [True]]
    return known[1]


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)  # pyright: ignore[reportPrivateImportUsage]
