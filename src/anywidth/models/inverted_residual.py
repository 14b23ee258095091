"""MobileNetV2 block: expansion, depthwise convolution, projection and residual sum."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["InvertedResidual"]


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution and linear 1x1 projection, with an optional residual sum.

    The block expands to `expansion * inputs` channels, so channel numbers are rounded before the expansion and not
    after it. With `expansion=1` there is no expanding convolution. The residual sum is an explicit argument rather than
    inferred from equal shapes: two channel numbers that differ at full width may round to the same one, and a narrow
    network must have the same layers as the full one.

    Source: MobileNetV2 (arXiv 1801.04381), section 3.3 and figure 4d.

    Args:
        inputs: Number of input channels.
        outputs: Number of output channels.
        stride: Stride of the depthwise convolution.
        expansion: Ratio of expanded channels to `inputs`.
        residual: Whether to add the input; requires `inputs == outputs` and stride 1.
        kernel: Kernel size of the depthwise convolution, an odd number.
        activation: Activation after the first two convolutions.

    >>> import torch
    >>> InvertedResidual(8, 16, stride=2, expansion=6, residual=False)(torch.rand(1, 8, 32, 32)).shape
    torch.Size([1, 16, 16, 16])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        expansion: int,
        residual: bool,
        kernel: int = 3,
        activation: type[nn.Module] = nn.ReLU6,
    ) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.residual = residual
        self.expand = nn.Conv2d(inputs, hidden, 1, bias=False) if expansion > 1 else None
        self.expand_norm = nn.BatchNorm2d(hidden) if expansion > 1 else None
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, padding=kernel // 2, groups=hidden, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(outputs)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (batch, inputs, height, width) to (batch, outputs, height / stride, width / stride)."""
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = self.activation(self.expand_norm(self.expand(y)))
        y = self.activation(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.residual else y
