"""Residual blocks of ResNets."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["BasicBlock", "Bottleneck", "Shortcut"]


class Shortcut(nn.Module):
    """1x1 convolution and norm for blocks that change channels or resolution (option B of the paper).

    >>> import torch
    >>> Shortcut(8, 16, stride=2)(torch.rand(1, 8, 32, 32)).shape
    torch.Size([1, 16, 16, 16])
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        return self.norm(self.conv(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a sum.

    Source: ResNet (arXiv 1512.03385), figure 5 left.

    Args:
        inputs: Number of input channels.
        middle: Number of channels after the first convolution.
        outputs: Number of output channels.
        stride: Stride of the first convolution.
        project: Whether the shortcut is a convolution. It is not inferred from the shapes, because channel numbers that
            differ at full width may round to the same one.

    >>> import torch
    >>> BasicBlock(8, 16, 16, stride=2, project=True)(torch.rand(1, 8, 32, 32)).shape
    torch.Size([1, 16, 16, 16])
    """

    def __init__(self, inputs: int, middle: int, outputs: int, *, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, middle, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = Shortcut(inputs, outputs, stride=stride) if project else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        y = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions and a sum.

    Source: ResNet (arXiv 1512.03385), figure 5 right; the 3x3 convolution has the stride, as in the common
    ResNet-50 with 4.1G MACs. The arguments are those of `BasicBlock`.

    >>> import torch
    >>> Bottleneck(8, 16, 64, stride=2, project=True)(torch.rand(1, 8, 32, 32)).shape
    torch.Size([1, 64, 16, 16])
    """

    def __init__(self, inputs: int, middle: int, outputs: int, *, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut = Shortcut(inputs, outputs, stride=stride) if project else nn.Identity()
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        y = self.activation(self.norm1(self.conv1(x)))
        y = self.activation(self.norm2(self.conv2(y)))
        return self.activation(self.norm3(self.conv3(y)) + self.shortcut(x))
