"""Refusal of steps whose gradients oneDNN would compute wrongly."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

import torch
from torch import nn

from anywidth.core.errors import TrainingError
from anywidth.core.inputs import Inputs
from anywidth.core.onednn import BLOCK, ISSUE, is_channels_last, strided_pointwise
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig

__all__ = ["check_memory_format", "check_plain_memory_format"]

_FORMAT = "to(memory_format=torch.contiguous_format)"
_CONTIGUOUS = f"call model.{_FORMAT} and inputs.{_FORMAT}"
_paths: WeakKeyDictionary[Supernet, tuple[int, tuple[str, ...]]] = WeakKeyDictionary()
"""Convolutions that may be affected, with the generation of the supernet in which they were found."""


def check_memory_format(
    net: Supernet, inputs: Inputs, configs: Iterable[WidthConfig], *, compiled: bool = False
) -> None:
    """Raise if a step would train a strided convolution with kernel 1 and few channels in channels-last on a CPU.

    Args:
        net: The supernet.
        inputs: The inputs of the step.
        configs: The configs that run.
        compiled: Whether subnets are compiled; on a CPU, the compiler stores images with channels last.

    Raises:
        TrainingError: the gradients would be wrong; the message names the convolution and the width.
    """
    known = _paths.get(net)
    if known is None or known[0] != net.generation:
        known = _paths[net] = (net.generation, strided_pointwise(net.model))
    paths = _affected(net.model, known[1])
    culprit = "torch.compile stores images" if compiled else _channels_last(net.model, inputs) if paths else None
    if not paths or culprit is None:
        return
    for config in configs:
        subnet = net.subnet(config)
        for path in paths:
            channels = _channels(subnet, path)
            if channels < BLOCK:
                fix = "do not compile" if compiled else _CONTIGUOUS
                raise _refusal(
                    path, f"{channels} channels at width {config}", culprit,
                    f"{fix}, or keep {BLOCK} channels there with a larger min_width or divisor",
                )  # fmt: skip


def check_plain_memory_format(model: nn.Module, inputs: Inputs) -> None:
    """Raise if a step would train such a convolution of a plain network in channels-last on a CPU.

    Args:
        model: The network.
        inputs: The inputs of the step.

    Raises:
        TrainingError: the gradients would be wrong; the message names the convolution.
    """
    for path in _affected(model, strided_pointwise(model)):
        channels = _channels(model, path)
        culprit = _channels_last(model, inputs) if channels < BLOCK else None
        if culprit is not None:
            raise _refusal(path, f"{channels} channels", culprit, f"{_CONTIGUOUS}, or use {BLOCK} channels there")


def _affected(model: nn.Module, paths: Iterable[str]) -> list[str]:
    """The convolutions whose weight gradients oneDNN computes."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return []
    return [path for path in paths if _trains(model.get_submodule(path))]


def _channels(model: nn.Module, path: str) -> int:
    """The number of channels that a convolution reads; enough if a subnet has another module there."""
    return getattr(model.get_submodule(path), "in_channels", BLOCK)


def _refusal(path: str, channels: str, culprit: str, fix: str) -> TrainingError:
    return TrainingError(
        f"the convolution {path!r} (kernel 1 with a stride) reads {channels}, and {culprit} with channels last. "
        f"On a CPU, oneDNN computes wrong gradients of its weights below {BLOCK} channels ({ISSUE}). "
        f"To train it, {fix}"
    )


def _trains(module: nn.Module) -> bool:
    """Whether oneDNN computes weight gradients of a convolution."""
    return any(
        parameter.requires_grad and parameter.device.type == "cpu" and parameter.dtype != torch.float64
        for parameter in module.parameters()
    )


def _channels_last(model: nn.Module, inputs: Inputs) -> str | None:
    """The inputs or a convolution in channels-last, for an error message."""
    if any(is_channels_last(tensor) for tensor in inputs.tensors()):
        return "the inputs are stored"
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and is_channels_last(module.weight):
            return f"the weights of {path!r} are stored"
    return None
