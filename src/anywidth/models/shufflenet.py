"""ShuffleNet, dense at any width."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from anywidth.models.channels import scaled_channels
from anywidth.models.conv_norm_act import ConvNormAct
from anywidth.models.initialise import initialise
from anywidth.models.shuffle_unit import ShuffleUnit
from anywidth.models.strides import keep_last_strides

__all__ = ["ShuffleNet"]

_GROUPS = 3
_STEM = 24
_STAGES = [(10, 54, 4), (20, 126, 8), (40, 234, 4)]
"""Output channels relative to the stem, bottleneck channels and units of each stage (ShuffleNet, table 1)."""
_FIRST_MIDDLE = 60
"""Bottleneck channels of the first unit, which has no shuffle."""


class ShuffleNet(nn.Module):
    """ShuffleNet with 3 groups: a stem, a max pool, 16 units, a pool and a classifier.

    Every layer is narrowed. It has 524.2M MACs at width 2, 137.5M at 1 and 37.6M at 0.5, for 224x224 images and 1,000
    classes (biases and norms are not counted; the average pool counts channels x positions).

    Concatenations and sums tie the stem and the outputs of all units into one channel group: the stem keeps a multiple
    of 3 channels, and the stages 10, 20 and 40 times as many. Bottlenecks keep multiples of 9. In the paper they have a
    quarter of the unit's output (60, 120, 240). These are not divisible by 3 groups of 3, so no channel could be
    removed without breaking the shuffle. Here they are the nearest multiples of 18, half of which are multiples of 9
    again. MACs stay within 0.05% of the paper's network.

    Source: ShuffleNet (arXiv 1707.01083); groups and widths as in S-Nets (arXiv 1812.08928).

    Args:
        width: Multiplies all channel numbers; S-Nets use 2 for the widest network, with subnets of widths 1 and 0.5.
        num_classes: Number of classifier outputs.
        in_channels: Number of image channels.
        downsamplings: Number of times the resolution is halved: 5 for 224x224 images, 3 for 32x32.

    >>> import torch
    >>> ShuffleNet(width=0.5, num_classes=10)(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    """

    frozen: ClassVar[tuple[str, ...]] = ()
    min_width: ClassVar[float] = 0.25
    divisor: ClassVar[int] = _GROUPS

    def __init__(
        self, *, width: float = 1.0, num_classes: int = 1000, in_channels: int = 3, downsamplings: int = 5
    ) -> None:
        super().__init__()
        stem_stride, pool_stride, *strides = keep_last_strides([2, 2, *(2 for _ in _STAGES)], downsamplings)
        stem = channels = scaled_channels(_STEM, width, self.divisor)
        self.stem = ConvNormAct(in_channels, channels, kernel=3, stride=stem_stride)
        self.stem_pool = nn.MaxPool2d(3, pool_stride, padding=1) if pool_stride > 1 else nn.Identity()
        self.features = nn.Sequential()
        for number, ((times, base, units), stride) in enumerate(zip(_STAGES, strides, strict=True)):
            for index in range(units):
                entry = number == 0 and index == 0
                middle = (
                    scaled_channels(_FIRST_MIDDLE, width, self.divisor)
                    if entry
                    else scaled_channels(base, width, _GROUPS**2)
                )
                unit = ShuffleUnit(
                    channels,
                    middle,
                    times * stem,
                    stride=stride if index == 0 else 1,
                    groups=_GROUPS,
                    reduce_groups=1 if entry else None,
                    concatenate=index == 0,
                )
                self.features.append(unit)
                channels = times * stem
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (batch, channels, height, width) to logits (batch, classes)."""
        x = self.features(self.stem_pool(self.stem(x)))
        return self.classifier(self.pool(x).flatten(1))
