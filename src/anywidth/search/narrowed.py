"""Output of a convolution with fewer output channels, sliced from an earlier output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["NarrowedOutputs", "sliced"]


class NarrowedOutputs:
    """Records which convolutions can be sliced from the base's output instead of being computed.

    Output channels are independent sums, but kernels may add them up in another order if the number of channels
    changes. So both results are computed when shapes and layouts of weights and inputs first occur, and slicing is used
    afterwards only if all bits agree.
    """

    def __init__(self) -> None:
        self._verdicts: dict[tuple[Any, ...], bool] = {}

    def verdict(self, module: nn.Conv2d, x: Tensor) -> bool | None:
        """Whether the output may be sliced; None if unknown."""
        return self._verdicts.get(_key(module, x))

    def learn(self, module: nn.Conv2d, x: Tensor, computed: Tensor, cut: Tensor) -> None:
        """Record whether the computed and the sliced output agree."""
        self._verdicts[_key(module, x)] = computed.stride() == cut.stride() and torch.equal(computed, cut)


def sliced(module: nn.Module, base: nn.Module | None, output: Any) -> Tensor | None:
    """First channels of the base's output, in the layout of a new result; None if `module` is not a slice of it."""
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
