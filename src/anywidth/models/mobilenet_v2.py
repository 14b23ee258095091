"""MobileNetV2, dense at any width."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from anywidth.models.channels import scaled_channels
from anywidth.models.conv_norm_act import ConvNormAct
from anywidth.models.initialise import initialise
from anywidth.models.inverted_residual import InvertedResidual
from anywidth.models.strides import keep_last_strides

__all__ = ["MobileNetV2"]

_STEM = 32
_HEAD = 1280
_STAGES = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]
"""Expansion, output channels, blocks and stride of each stage (MobileNetV2, table 2)."""


class MobileNetV2(nn.Module):
    """MobileNetV2: a stem, 17 inverted residual blocks, a 1280-channel head, a pool and a classifier.

    The head is not narrowed. It has 300.8M MACs at width 1 and 59.3M at width 0.35, for 224x224 images and 1,000
    classes (biases and norms are not counted; the average pool counts channels x positions).

    Source: MobileNetV2 (arXiv 1801.04381); widths as in US-Nets (arXiv 1903.05134).

    Args:
        width: Multiplies all channel numbers except the head's, rounded to multiples of 8 before the expansion; above 1
            the head grows too.
        num_classes: Number of classifier outputs.
        in_channels: Number of image channels.
        downsamplings: Number of times the resolution is halved: 5 for 224x224 images, 3 for 32x32.

    >>> import torch
    >>> MobileNetV2(width=0.35, num_classes=10)(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 10])
    """

    frozen: ClassVar[tuple[str, ...]] = ("head.conv",)
    min_width: ClassVar[float] = 0.35
    divisor: ClassVar[int] = 8

    def __init__(
        self, *, width: float = 1.0, num_classes: int = 1000, in_channels: int = 3, downsamplings: int = 5
    ) -> None:
        super().__init__()
        stem_stride, *strides = keep_last_strides([2, *(stage[3] for stage in _STAGES)], downsamplings)
        channels = scaled_channels(_STEM, width, self.divisor)
        self.stem = ConvNormAct(in_channels, channels, kernel=3, stride=stem_stride, activation=nn.ReLU6)
        self.features = nn.Sequential()
        for (expansion, base, blocks, _), stride in zip(_STAGES, strides, strict=True):
            outputs = scaled_channels(base, width, self.divisor)
            for index in range(blocks):
                first = index == 0
                block = InvertedResidual(
                    channels,
                    outputs,
                    stride=stride if first else 1,
                    expansion=expansion,
                    residual=not first,
                )
                self.features.append(block)
                channels = outputs
        head = scaled_channels(_HEAD, max(width, 1.0), self.divisor)
        self.head = ConvNormAct(channels, head, kernel=1, activation=nn.ReLU6)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (batch, channels, height, width) to logits (batch, classes)."""
        x = self.head(self.features(self.stem(x)))
        return self.classifier(self.pool(x).flatten(1))
