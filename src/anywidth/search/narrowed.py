"""The output of a convolution that has lost output channels: the first channels of what it gave before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NarrowedOutputs", "sliced"]


class NarrowedOutputs:
    """Which convolutions may be cut from what the base gave, instead of being computed.

    Every output channel is a sum of its own, but kernels are free to add it up in another order for another number of
    channels. So the first time that shapes and layouts of weights and inputs occur, both are computed, and only if all
    bits agree is the output cut from then on.
    """

    def __init__(self) -> None:
        self._verdicts: dict[tuple[Any, ...], bool] = {}

    def verdict(self, module: nn.Conv2d, x: Tensor) -> bool | None:
        """Whether the output may be cut; None if nobody has tried."""
        return self._verdicts.get(_key(module, x))

    def learn(self, module: nn.Conv2d, x: Tensor, computed: Tensor, cut: Tensor) -> None:
        """Note whether the computed output is the one that was cut."""
        self._verdicts[_key(module, x)] = computed.stride() == cut.stride() and torch.equal(computed, cut)


def sliced(module: nn.Module, base: nn.Module | None, output: Any) -> Tensor | None:
    """The first channels of what `base` gave, laid out like a fresh result; None if `module` is not its first part."""
    if type(module) is not nn.Conv2d or type(base) is not nn.Conv2d or not isinstance(output, Tensor):
        return None
    channels = module.weight.shape[0]
    if module.groups != 1 or base.groups != 1 or not channels < base.weight.shape[0]:
        return None
    pairs = [(module.weight, base.weight)]
    if module.bias is not None and base.bias is not None:
        pairs.append((module.bias, base.bias))
    if any(own.shape[1:] != whole.shape[1:] or not torch.equal(own, whole[:channels]) for own, whole in pairs):
        return None
    last = output.is_contiguous(memory_format=torch.channels_last) and not output.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return output.narrow(1, 0, channels).contiguous(memory_format=layout)


def _key(module: nn.Conv2d, x: Tensor) -> tuple[Any, ...]:
    settings = module.stride, module.padding, module.dilation, module.padding_mode
    return (*settings, module.weight.shape, module.weight.stride(), x.shape, x.stride(), x.dtype, x.device)
