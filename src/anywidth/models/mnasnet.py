"""MNasNet, dense at any width."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from anywidth.models.channels import scaled_channels
from anywidth.models.conv_norm_act import ConvNormAct
from anywidth.models.initialise import initialise
from anywidth.models.inverted_residual import InvertedResidual
from anywidth.models.strides import keep_last_strides

__all__ = ["MNasNet"]

_STEM = 32
_HEAD = 1280
_STAGES = [
    (1, 16, 1, 1, 3),
    (3, 24, 3, 2, 3),
    (3, 40, 3, 2, 5),
    (6, 80, 3, 2, 5),
    (6, 96, 2, 1, 3),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
]
"""Expansion, output channels, blocks, stride and kernel of each stage (MnasNet-B1)."""


class MNasNet(nn.Module):
    """MnasNet-B1: a stem, 17 inverted residual blocks of 3x3 and 5x5, a 1280-channel head, a pool and a classifier.

    The head is not scaled. It has 314.5M MACs at width 1, 215.6M at 0.75 and 104.5M at 0.5, for 224x224 images and
    1,000 classes (biases and norms are not counted; the average pool counts channels x positions).

    Source: MnasNet (arXiv 1807.11626), the variant without squeeze-and-excitation; one of the networks of AutoSlim
    (arXiv 1903.11728).

    Args:
        width: Multiplies all channel numbers except the head's, rounded to multiples of 8 before the expansion.
        num_classes: Number of classifier outputs.
        in_channels: Number of image channels.
        downsamplings: Number of times the resolution is halved: 5 for 224x224 images, 3 for 32x32.

    >>> import torch
    >>> MNasNet(width=0.35, num_classes=10)(torch.rand(2, 3, 64, 64)).shape
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
        self.stem = ConvNormAct(in_channels, channels, kernel=3, stride=stem_stride)
        self.features = nn.Sequential()
        for (expansion, base, blocks, _, kernel), stride in zip(_STAGES, strides, strict=True):
            outputs = scaled_channels(base, width, self.divisor)
            for index in range(blocks):
                first = index == 0
                block = InvertedResidual(
                    channels,
                    outputs,
                    stride=stride if first else 1,
                    expansion=expansion,
                    residual=not first,
                    kernel=kernel,
                    activation=nn.ReLU,
                )
                self.features.append(block)
                channels = outputs
        self.head = ConvNormAct(channels, _HEAD, kernel=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(_HEAD, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (batch, channels, height, width) to logits (batch, classes)."""
        x = self.head(self.features(self.stem(x)))
        return self.classifier(self.pool(x).flatten(1))
