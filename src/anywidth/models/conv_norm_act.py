"""Convolution, batch norm and activation, used in stems and heads of the reference networks."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ConvNormAct"]


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm and activation.

    >>> import torch
    >>> ConvNormAct(3, 8, kernel=3, stride=2)(torch.rand(1, 3, 32, 32)).shape
    torch.Size([1, 8, 16, 16])
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int = 1, activation: type[nn.Module] = nn.ReLU
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        return self.activation(self.norm(self.conv(x)))
