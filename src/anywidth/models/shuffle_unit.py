"""ShuffleNet block: grouped 1x1 convolutions with a channel shuffle in between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ShuffleUnit"]


class ShuffleUnit(nn.Module):
    """Grouped 1x1 reduction, channel shuffle, 3x3 depthwise and grouped 1x1 expansion, combined with the input.

    The input is added or concatenated. With concatenation, it provides the first output channels, after a 3x3 average
    pool if the unit has a stride, and the convolutions provide the rest.

    Source: ShuffleNet (arXiv 1707.01083), section 3.2 and figures 2b and 2c.

    Args:
        inputs: Number of input channels.
        middle: Number of channels after the reduction. If it is a multiple of `groups` squared, the shuffle passes
            equally many channels from every group to every group, which keeps them elastic.
        outputs: Number of output channels, including those of the input when concatenated.
        stride: Stride of the depthwise convolution.
        groups: Groups of both 1x1 convolutions.
        reduce_groups: Groups of the reduction, if different. With 1, it reads all channels and nothing is shuffled.
        concatenate: Whether to concatenate the input instead of adding it. It is not inferred from the shapes, because
            it determines which layers exist.

    >>> import torch
    >>> ShuffleUnit(6, 9, 24, stride=2, groups=3, concatenate=True)(torch.rand(1, 6, 32, 32)).shape
    torch.Size([1, 24, 16, 16])
    """

    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        *,
        stride: int,
        groups: int,
        reduce_groups: int | None = None,
        concatenate: bool,
    ) -> None:
        super().__init__()
        reduce_groups = groups if reduce_groups is None else reduce_groups
        made = outputs - inputs if concatenate else outputs
        self.concatenate = concatenate
        self.reduce = nn.Conv2d(inputs, middle, 1, groups=reduce_groups, bias=False)
        self.reduce_norm = nn.BatchNorm2d(middle)
        self.shuffle = nn.ChannelShuffle(groups) if reduce_groups > 1 else nn.Identity()
        self.depthwise = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(middle)
        self.expand = nn.Conv2d(middle, made, 1, groups=groups, bias=False)
        self.expand_norm = nn.BatchNorm2d(made)
        self.shortcut = nn.AvgPool2d(3, stride, padding=1) if stride > 1 else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        y = self.shuffle(self.activation(self.reduce_norm(self.reduce(x))))
        y = self.depthwise_norm(self.depthwise(y))
        y = self.expand_norm(self.expand(y))
        x = self.shortcut(x)
        return self.activation(torch.cat([x, y], 1) if self.concatenate else x + y)
