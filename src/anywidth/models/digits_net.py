"""A tiny inverted-residual network for 8x8 digits."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from anywidth.models.channels import scaled_channels
from anywidth.models.conv_norm_act import ConvNormAct
from anywidth.models.initialise import initialise
from anywidth.models.inverted_residual import InvertedResidual

__all__ = ["DigitsNet"]

_STEM = 8
_EXPANSION = 4
_BLOCKS = (16, 12)
"""Output channels of each block."""


class DigitsNet(nn.Module):
    """DigitsNet: a 3x3 stem, two inverted residual blocks down to 2x2 positions, a pool and a classifier.

    It is small enough that narrowing it costs accuracy: at width 0.25, the stem has two channels, and three features
    remain for ten classes. All layers are narrowed, apart from the outputs of the classifier.

    Source: block of MobileNetV2 (arXiv 1801.04381); the network is specific to anywidth.

    Args:
        width: Multiplies all channel numbers, rounded to whole channels before the expansion.
        num_classes: Number of classifier outputs.
        in_channels: Number of image channels.

    >>> import torch
    >>> DigitsNet(width=0.25)(torch.rand(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    frozen: ClassVar[tuple[str, ...]] = ()
    min_width: ClassVar[float] = 0.25
    divisor: ClassVar[int] = 1

    def __init__(self, *, width: float = 1.0, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        channels = scaled_channels(_STEM, width, self.divisor)
        self.stem = ConvNormAct(in_channels, channels, kernel=3, activation=nn.ReLU6)
        self.features = nn.Sequential()
        for base in _BLOCKS:
            outputs = scaled_channels(base, width, self.divisor)
            self.features.append(InvertedResidual(channels, outputs, stride=2, expansion=_EXPANSION, residual=False))
            channels = outputs
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (batch, channels, height, width) to logits (batch, classes)."""
        x = self.features(self.stem(x))
        return self.classifier(self.pool(x).flatten(1))
