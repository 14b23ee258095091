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

__all__ = ["check_memory_format"]

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
    paths = [path for path in known[1] if _trains(net.model.get_submodule(path))]
    if not paths or not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return
    culprit = "torch.compile stores images" if compiled else _channels_last(net.model, inputs)
    if culprit is None:
        return
    for config in configs:
        subnet = net.subnet(config)
        for path in paths:
            channels = getattr(subnet.get_submodule(path), "in_channels", BLOCK)
            if channels < BLOCK:
                contiguous = "to(memory_format=torch.contiguous_format)"
                fix = "do not compile" if compiled else f"call model.{contiguous} and inputs.{contiguous}"
                raise TrainingError(
                    f"the convolution {path!r} (kernel 1 with a stride) reads {channels} channels at width {config}, "
                    f"and {culprit} with channels last. On a CPU, oneDNN computes wrong gradients of its weights below "
                    f"{BLOCK} channels ({ISSUE}). To train it, {fix}, or keep {BLOCK} channels there with a larger "
                    "min_width or divisor"
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
