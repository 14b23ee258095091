"""A tiny inverted-residual network for 8x8 digits."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from anywidth.models.channels import scaled_channels
from anywidth.models.conv_norm_act import ConvNormAct
from anywidth.models.initialise import initialise
from anywidth.models.inverted_residual import InvertedResidual

__all__ = ["DigitsNet"]

_STEM = 16
_STAGES = [(4, 24, 2, 2), (4, 16, 2, 2)]
"""Expansion, output channels, blocks and stride of each stage."""


class DigitsNet(nn.Module):
    """DigitsNet: a 3x3 stem, inverted residual blocks down to 2x2 positions, a pool and a classifier.

    It trains at all widths within a minute on two CPU cores, and is small enough that narrowing it costs accuracy: at
    width 0.25, four features remain for ten classes. Every layer is narrowed.

    Source: block of MobileNetV2 (arXiv 1801.04381); the network is specific to anywidth.

    Args:
        width: Multiplies all channel numbers, rounded to multiples of 2 before the expansion.
        num_classes: Number of classifier outputs.
        in_channels: Number of image channels.

    >>> import torch
    >>> DigitsNet(width=0.25)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    frozen: ClassVar[tuple[str, ...]] = ()
    min_width: ClassVar[float] = 0.25
    divisor: ClassVar[int] = 2

    def __init__(self, *, width: float = 1.0, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        channels = scaled_channels(_STEM, width, self.divisor)
        self.stem = ConvNormAct(in_channels, channels, kernel=3, activation=nn.ReLU6)
        self.features = nn.Sequential()
        for expansion, base, blocks, stride in _STAGES:
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
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (batch, channels, height, width) to logits (batch, classes)."""
        x = self.features(self.stem(x))
        return self.classifier(self.pool(x).flatten(1))
