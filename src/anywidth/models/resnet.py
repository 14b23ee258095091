"""ResNets for ImageNet and CIFAR, dense at any width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from anywidth.core.errors import ModelError
from anywidth.models.channels import scaled_channels
from anywidth.models.conv_norm_act import ConvNormAct
from anywidth.models.initialise import initialise
from anywidth.models.residual import BasicBlock, Bottleneck

__all__ = ["ResNet", "Stem"]

Stem = Literal["imagenet", "cifar"]
"""Stem: 7x7 with stride 2 and a max pool, or 3x3 without either."""


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Layout of one depth: blocks and channels of each stage, output expansion, rounding."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    expansion: int = 1
    divisor: int = 8
    stem: Stem = "imagenet"


_LAYOUTS = {
    18: _Layout(block=BasicBlock, blocks=(2, 2, 2, 2), channels=(64, 128, 256, 512)),
    50: _Layout(block=Bottleneck, blocks=(3, 4, 6, 3), channels=(64, 128, 256, 512), expansion=4),
    8: _Layout(block=BasicBlock, blocks=(1, 1, 1), channels=(16, 32, 64), divisor=4, stem="cifar"),
    20: _Layout(block=BasicBlock, blocks=(3, 3, 3), channels=(16, 32, 64), divisor=4, stem="cifar"),
    56: _Layout(block=BasicBlock, blocks=(9, 9, 9), channels=(16, 32, 64), divisor=4, stem="cifar"),
}


class ResNet(nn.Module):
    """Residual network of 8, 18, 20, 50 or 56 layers, with projections where a shortcut changes shape.

    Every layer is narrowed. ResNet-50 has 4,089M MACs at width 1 and 278M at 0.25 (224x224, 1,000 classes); ResNet-18
    with the CIFAR stem has 555M and 35M (32x32, 100 classes). Biases and norms are not counted; the average pool counts
    channels x positions.

    Source: ResNet (arXiv 1512.03385), table 1 (18, 50) and section 4.2 (8, 20, 56, there with shortcuts that pad
    channels with zeros); widths as in S-Nets (arXiv 1812.08928).

    Args:
        depth: 8, 18, 20, 50 or 56.
        stem: "imagenet" halves the resolution twice before the first block, "cifar" keeps it; None uses "cifar" for 8,
            20 and 56 and "imagenet" for 18 and 50.
        width: Multiplies all channel numbers, rounded to multiples of `divisor` (8; 4 for 8, 20 and 56).
        num_classes: Number of classifier outputs.
        in_channels: Number of image channels.

    Raises:
        ModelError: the depth or stem is unknown.

    >>> import torch
    >>> ResNet(20, width=0.25, num_classes=10)(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    frozen: ClassVar[tuple[str, ...]] = ()
    min_width: ClassVar[float] = 0.25

    def __init__(
        self,
        depth: int,
        *,
        stem: Stem | None = None,
        width: float = 1.0,
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if depth not in _LAYOUTS:
            raise ModelError(f"unknown ResNet depth {depth!r}; choose one of {sorted(_LAYOUTS)}")
        layout = _LAYOUTS[depth]
        stem = layout.stem if stem is None else stem
        if stem not in ("imagenet", "cifar"):
            raise ModelError(f"stem must be 'imagenet' or 'cifar', not {stem!r}")
        self.divisor = layout.divisor
        inputs = scaled_channels(layout.channels[0], width, self.divisor)
        large = stem == "imagenet"
        self.stem = ConvNormAct(in_channels, inputs, kernel=7 if large else 3, stride=2 if large else 1)
        self.stem_pool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        self.stages = nn.Sequential()
        for number, (base, blocks) in enumerate(zip(layout.channels, layout.blocks, strict=True)):
            middle = scaled_channels(base, width, self.divisor)
            outputs = scaled_channels(layout.expansion * base, width, self.divisor)
            stage = nn.Sequential()
            for index in range(blocks):
                stage.append(
                    layout.block(
                        inputs,
                        middle,
                        outputs,
                        stride=2 if index == 0 and number > 0 else 1,
                        project=index == 0 and (number > 0 or layout.expansion > 1),
                    )
                )
                inputs = outputs
            self.stages.append(stage)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (batch, channels, height, width) to logits (batch, classes)."""
        x = self.stages(self.stem_pool(self.stem(x)))
        return self.classifier(self.pool(x).flatten(1))
