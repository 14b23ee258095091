"""MobileNetV1 block: a depthwise and a pointwise convolution."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["DepthwiseSeparable"]


class DepthwiseSeparable(nn.Module):
    """Depthwise 3x3 convolution, then a 1x1 convolution across channels.

    Source: MobileNets (arXiv 1704.04861), section 3.1.

    >>> import torch
    >>> DepthwiseSeparable(8, 16, stride=2)(torch.rand(1, 8, 32, 32)).shape
    torch.Size([1, 16, 16, 16])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        x = self.activation(self.depthwise_norm(self.depthwise(x)))
        return self.activation(self.pointwise_norm(self.pointwise(x)))
