"""MobileNetV1, dense at any width."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from anywidth.models.channels import scaled_channels
from anywidth.models.conv_norm_act import ConvNormAct
from anywidth.models.depthwise_separable import DepthwiseSeparable
from anywidth.models.initialise import initialise
from anywidth.models.strides import keep_last_strides

__all__ = ["MobileNetV1"]

_STEM = 32
_BLOCKS = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
"""Output channels and stride of each block (MobileNets, table 1)."""


class MobileNetV1(nn.Module):
    """MobileNetV1: a stem, 13 depthwise separable blocks, a pool and a classifier.

    Every layer is narrowed. It has 567.7M MACs at width 1 and 41.0M at width 0.25, for 224x224 images and 1,000 classes
    (biases and norms are not counted; the average pool counts channels x positions).

    Source: MobileNets (arXiv 1704.04861); widths as in US-Nets (arXiv 1903.05134).

    Args:
        width: Multiplies all channel numbers, rounded to multiples of 8.
        num_classes: Number of classifier outputs.
        in_channels: Number of image channels.
        downsamplings: Number of times the resolution is halved: 5 for 224x224 images, 3 for 32x32.

    >>> import torch
    >>> MobileNetV1(width=0.25, num_classes=10)(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    """

    frozen: ClassVar[tuple[str, ...]] = ()
    min_width: ClassVar[float] = 0.25
    divisor: ClassVar[int] = 8

    def __init__(
        self, *, width: float = 1.0, num_classes: int = 1000, in_channels: int = 3, downsamplings: int = 5
    ) -> None:
        super().__init__()
        stem_stride, *strides = keep_last_strides([2, *(stride for _, stride in _BLOCKS)], downsamplings)
        channels = scaled_channels(_STEM, width, self.divisor)
        self.stem = ConvNormAct(in_channels, channels, kernel=3, stride=stem_stride)
        self.features = nn.Sequential()
        for (base, _), stride in zip(_BLOCKS, strides, strict=True):
            outputs = scaled_channels(base, width, self.divisor)
            self.features.append(DepthwiseSeparable(channels, outputs, stride=stride))
            channels = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (batch, channels, height, width) to logits (batch, classes)."""
        x = self.features(self.stem(x))
        return self.classifier(self.pool(x).flatten(1))
