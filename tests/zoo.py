"""The one table of models that cross-cutting tests run over.

Every model is built in double precision, with batch-norm statistics and affine parameters that are not the initial
ones, so that a wrong slice of any tensor shows in the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.densenet import DenseNet
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.googlenet import BasicConv2d, Inception
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.vgg import VGG, make_layers

from anywidth.models.conv_norm_act import ConvNormAct
from anywidth.models.inverted_residual import InvertedResidual as OurInvertedResidual
from anywidth.models.shuffle_unit import ShuffleUnit

__all__ = ["CASES", "Case", "cases", "find"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model with what a test has to know about it.

    Attributes:
        name: Stands in test ids.
        build: Makes the model.
        inputs: Makes example inputs, of at least two samples.
        slow: Left out by default, because smaller models have the same structure.
        elastic: Whether anything of it can be narrowed at all.
        warns: Whether less than half of its MACs can be narrowed, which the supernet warns of.
        masking: Whether zero weights for dropped channels are all that tells a subnet from the full network (not so
            where a norm or a softmax counts channels).
        both_ways: Weights that are read along their first dimension as well.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    slow: bool = False
    elastic: bool = True
    warns: bool = False
    masking: bool = True
    both_ways: tuple[str, ...] = ()

    def model(self) -> nn.Module:
        """The model in double precision and evaluation mode, the same weights at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.build().double().eval()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    if module.running_mean is not None and module.running_var is not None:
                        module.running_mean.normal_(0, 0.2)
                        module.running_var.uniform_(0.5, 1.5)
                    if module.affine:
                        nn.init.uniform_(module.weight, 0.5, 1.5)
                        nn.init.normal_(module.bias, 0, 0.2)
        return model

    def example(self, seed: int = 0) -> Any:
        """Example inputs, the same for the same seed."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.inputs()


def images(size: int, channels: int = 3, batch: int = 2) -> Callable[[], Tensor]:
    """Makes a batch of random images in double precision."""
    return lambda: torch.randn(batch, channels, size, size, dtype=torch.float64)


# -- small networks of ours, one for every way in which channels can hang together -------------------------


class Residual(nn.Module):
    """A sum ties the outputs of two convolutions together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.a = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.b(self.a(x)))
        return self.head(x.mean((2, 3)))


class PaddedShortcut(nn.Module):
    """A shortcut whose missing channels are zeros: those of the sum that meet padding are fixed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.inner = nn.Conv2d(12, 20, 3, padding=1)
        self.out = nn.Conv2d(20, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norm(self.out(F.relu(self.inner(x)))) + F.pad(x, (0, 0, 0, 0, 6, 6))
        return self.head(x.mean((2, 3)))


class Concat(nn.Module):
    """Two branches and the network's own input, one behind the other, read by a norm, a conv and a depthwise conv."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 12, 3, padding=1)
        self.right = nn.Conv2d(3, 20, 1)
        self.norm = nn.BatchNorm2d(35)
        self.depthwise = nn.Conv2d(35, 35, 3, padding=1, groups=35)
        self.fuse = nn.Conv2d(35, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), x, self.right(x)], 1)
        x = self.fuse(self.depthwise(F.relu(self.norm(x))))
        return self.head(F.relu(x).amax((2, 3)))


class DepthwiseMultiplier(nn.Module):
    """A depthwise convolution with three outputs per input, and one in front of it that reads the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.depthwise = nn.Conv2d(10, 30, 3, padding=1, groups=10)
        self.norm = nn.BatchNorm2d(30)
        self.point = nn.Conv2d(30, 14, 1)
        self.head = nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.depthwise(self.stem(x))))
        return self.head(self.point(x).mean((2, 3)))


class GroupedConv(nn.Module):
    """Few large groups (narrowed inside each) and many small ones (dropped whole)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.few = nn.Conv2d(32, 48, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(48)
        self.many = nn.Conv2d(48, 32, 3, padding=1, groups=16)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.few(F.relu(self.stem(x)))))
        return self.head(F.relu(self.many(x))).mean((2, 3))


class ChannelShuffle(nn.Module):
    """Grouped convolutions with a shuffle in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 1)
        self.a = nn.Conv2d(24, 24, 3, padding=1, groups=2)
        self.b = nn.Conv2d(24, 32, 3, padding=1, groups=2)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(self.stem(x))
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
        return self.head(F.relu(self.b(x)).mean((2, 3)))


class ChunkAndSplit(nn.Module):
    """Equal halves by chunk, then the pieces of a split used apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.left, self.right = nn.Conv2d(12, 18, 1), nn.Conv2d(12, 18, 1)
        self.wide = nn.Conv2d(18, 32, 1)
        self.first, self.second = nn.Conv2d(8, 10, 1), nn.Conv2d(24, 10, 1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.stem(x).chunk(2, 1)
        x = F.relu(self.left(left) * torch.sigmoid(self.right(right)))
        first, second = torch.split(self.wide(x), [8, 24], 1)
        return self.head((self.first(first) + self.second(F.relu(second))).mean((2, 3)))


class SplitByList(nn.Module):
    """A split whose sizes are an attribute in which two numbers are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = [8, 12, 12]
        self.stem = nn.Conv2d(3, sum(self.sizes), 3, padding=1)
        self.readers = nn.ModuleList(nn.Conv2d(size, 6, 3, padding=1) for size in self.sizes)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.stem(x), self.sizes, 1)
        return self.head(sum(read(part) for read, part in zip(self.readers, parts, strict=True)).mean((2, 3)))


class RotaryAttention(nn.Module):
    """Packed attention whose queries and keys are turned by a table of positions, in halves of every head."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.out = nn.Linear(12, 3 * self.heads * 6), nn.Linear(self.heads * 6, 5)
        angles = torch.arange(5.0).outer(torch.tensor([1.0, 0.3, 0.1])).repeat(1, 2)
        self.register_buffer("sin", angles.sin())
        self.register_buffer("cos", angles.cos())

    def turn(self, x: Tensor) -> Tensor:
        return x * self.cos + torch.cat([-x[..., 3:], x[..., :3]], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, 6).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(self.turn(query), self.turn(key), value)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, -1))


class StridedSlices(nn.Module):
    """Even and odd channels go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 20, 3, padding=1)
        self.even, self.odd = nn.Conv2d(10, 12, 1), nn.Conv2d(10, 12, 1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.cat([self.even(x[:, ::2]), self.odd(x[:, 1::2])], 1)
        return self.head(F.relu(x).mean((2, 3)))


class FlattenIntoLinear(nn.Sequential):
    """Every channel feeds several columns of a linear layer."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Flatten(), nn.Linear(360, 24), nn.ReLU(),
            nn.BatchNorm1d(24), nn.Linear(24, 4),
        )  # fmt: skip


class UsedTwice(nn.Module):
    """One convolution under two names in one parent, called three times, and one norm called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.again = self.body
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.norm(self.body(x)))
        x = F.relu(self.again(x)) + torch.tanh(self.again(-x))
        return self.head(x.mean((2, 3)))


class _Tower(nn.Module):
    def __init__(self, shared: nn.Module, outputs: int) -> None:
        super().__init__()
        self.shared = shared
        self.own = nn.Conv2d(16, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.own(F.relu(self.shared(x))))


class SharedByTwo(nn.Module):
    """One depthwise block that belongs to two parents; the first of them is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        shared = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16))
        self.listed = nn.ModuleList([shared])
        self.a, self.b = _Tower(shared, 12), _Tower(shared, 20)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(torch.cat([self.b(x), self.a(x)], 1).mean((2, 3)))


class SharedInside(nn.Module):
    """One depthwise block that belongs to two parents which are both called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        shared = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16))
        self.unused = nn.ModuleDict({"kept": shared})
        self.a, self.b = _Tower(shared, 12), _Tower(shared, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((self.b(x) * self.a(x)).mean((2, 3)))


class TiedWeights(nn.Module):
    """Two layers with one weight, used as it is and transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(12, 30)
        self.middle = nn.Linear(30, 30, bias=False)
        self.again = nn.Linear(30, 30)
        self.again.weight = self.middle.weight
        self.bias = nn.Parameter(torch.randn(12))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.encode(x))
        x = F.gelu(self.again(F.gelu(self.middle(x))))
        return F.linear(x, self.encode.weight.t(), self.bias)


class Transposed(nn.Module):
    """Down and up again, with a plain, a grouped and a depthwise transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 20, 2, stride=2)
        self.depthwise = nn.ConvTranspose2d(20, 20, 3, padding=1, groups=20)
        self.grouped = nn.ConvTranspose2d(20, 24, 3, padding=1, groups=2)
        self.out = nn.ConvTranspose2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.down(x)))
        x = F.relu(self.depthwise(self.up(x)))
        return self.out(F.relu(self.grouped(x)))


class WithoutAffine(nn.Module):
    """Batch norms without weights, and one without statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.first = nn.BatchNorm2d(16, affine=False)
        self.second = nn.BatchNorm2d(24, affine=False, track_running_stats=False)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.a(x)))
        return self.head(F.relu(self.second(self.b(x))).mean((2, 3)))


class SqueezeExcite(nn.Module):
    """Channels that are scaled by what a small network makes of their means."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.stem(x)))
        scale = self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1))))
        return self.head((x * torch.sigmoid(scale)).mean((2, 3)))


class SelectiveKernel(nn.Module):
    """Two branches weighed against each other by a softmax over the branches."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 5, padding=2)
        self.reduce, self.select = nn.Linear(16, 8), nn.Linear(8, 32)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.stack([self.a(x), self.b(x)], 1)
        weights = self.select(F.relu(self.reduce(branches.sum(1).mean((2, 3)))))
        weights = weights.view(len(x), 2, -1).softmax(1)[..., None, None]
        return self.head(F.relu((branches * weights).sum(1)).mean((2, 3)))


class WithGlu(nn.Module):
    """A gate of every channel in the second half."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 28, 3, padding=1)
        self.norm = nn.BatchNorm2d(28)
        self.head = nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.glu(self.norm(self.stem(x)), 1).mean((2, 3)))


class WithPixelShuffle(nn.Module):
    """Four channels become one at twice the size, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 40, 3, padding=1)
        self.middle = nn.Conv2d(10, 12, 3, padding=1)
        self.back = nn.Conv2d(48, 20, 1)
        self.out = nn.Conv2d(20, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.middle(F.pixel_shuffle(self.stem(x), 2)))
        return self.out(F.relu(self.back(F.pixel_unshuffle(x, 2))))


class Convolutions1d(nn.Sequential):
    """A network for sequences."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv1d(5, 18, 3, padding=1), nn.BatchNorm1d(18), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(18, 26, 3, padding=1), nn.ELU(), nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(52, 4),
        )  # fmt: skip


class Convolutions3d(nn.Sequential):
    """A network for volumes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv3d(2, 12, 3, padding=1), nn.BatchNorm3d(12), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(12, 18, 1),
            nn.LeakyReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(18, 4),
        )  # fmt: skip


class FollowingBuffers(nn.Module):
    """Buffers that follow channels: a leading block, and one that runs over a concatenation."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 12, 1)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 16).view(1, 16, 1, 1))
        self.register_buffer("shift", torch.linspace(-1, 1, 28).view(28, 1, 1), persistent=False)
        self.gain = nn.Parameter(torch.linspace(0.5, 2, 28).view(28, 1, 1))
        self.head = nn.Linear(28, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.a(x) * self.scale, self.b(x)], 1)
        return self.head(F.relu(x * self.gain + self.shift).mean((2, 3)))


class TwoInputs(nn.Module):
    """An image and a vector, met half-way."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(6, 16)
        self.norm = nn.BatchNorm2d(16)
        self.body, self.head = nn.Conv2d(16, 20, 3, padding=1), nn.Linear(20, 4)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        x = self.norm(self.image(image)) + self.vector(vector)[:, :, None, None]
        return self.head(F.relu(self.body(F.relu(x))).mean((2, 3)))


class KeywordInputs(TwoInputs):
    """Keyword arguments in, a mapping out."""

    def forward(self, *, image: Tensor, vector: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": super().forward(image, vector), "square": vector.square()}


class UNet(nn.Module):
    """A skip connection that joins an upsampled path by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 20, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(20)
        self.up, self.out = nn.Conv2d(30, 14, 3, padding=1), nn.Conv2d(14, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.enter(x))
        x = F.relu(self.norm(self.down(skip)))
        x = torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], 1)
        return self.out(F.relu(self.up(x)))


class Auxiliary(nn.Module):
    """A second head that exists in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 20, 3, padding=1)
        self.norm, self.side = nn.BatchNorm2d(16), nn.Sequential(nn.Conv2d(16, 12, 1), nn.BatchNorm2d(12))
        self.aux, self.head = nn.Linear(12, 4), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.norm(self.stem(x)))
        logits = self.head(F.relu(self.body(x)).mean((2, 3)))
        return (logits, self.aux(F.relu(self.side(x)).mean((2, 3)))) if self.training else logits


class OtherNorms(nn.Module):
    """Group norm of few and many groups, layer norm over channels, instance norms with and without statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(i, 16, 3, padding=1) for i in (3, 16, 16, 16)])
        self.norms = nn.ModuleList(
            [
                nn.GroupNorm(4, 16),
                nn.GroupNorm(1, 16),
                nn.InstanceNorm2d(16, affine=True, track_running_stats=True),
                nn.InstanceNorm2d(16),
            ]
        )
        self.last, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return self.head(self.last(x.mean((2, 3))))


class InstanceStatistics(nn.Module):
    """An instance norm that keeps running statistics and uses them in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.norm = nn.InstanceNorm2d(16, affine=True, track_running_stats=True)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.norm(self.a(x))))).mean((2, 3)))


def _chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 18, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(18, 26, 3, stride=2), nn.Softplus(),
        nn.Dropout(0.2), nn.Conv2d(26, 30, 3), nn.ReLU6(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(30, 4),
    )  # fmt: skip


def _prelu() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 20, 3, padding=1), nn.PReLU(20), nn.Conv2d(20, 12, 3, padding=1), nn.PReLU(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 4),
    )  # fmt: skip
    nn.init.uniform_(model[1].weight, 0.1, 0.9)
    return model


def _resnet(block: type[BasicBlock | Bottleneck], **settings: Any) -> nn.Module:
    """The first two stages, which have every kind of block; the others hold nearly all weights."""
    model = ResNet(block, [2, 1, 1, 1], num_classes=5, **settings)
    model.layer3, model.layer4 = nn.Sequential(), nn.Sequential()
    model.fc = nn.Linear(128 * block.expansion, 5)
    return model


def _mobilenet_v2() -> nn.Module:
    settings = [[1, 16, 1, 1], [6, 24, 2, 2]]
    return MobileNetV2(num_classes=5, inverted_residual_setting=settings)


def _shufflenet_v2() -> nn.Module:
    return ShuffleNetV2([2, 1, 1], [24, 32, 48, 64, 96], num_classes=5)


def _vgg() -> nn.Module:
    model = VGG.__new__(VGG)  # whose classifier would have 120 million weights
    nn.Module.__init__(model)
    model.features = make_layers([12, "M", 20, 20, "M", 28, "M"], batch_norm=True)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier = nn.Sequential(nn.Linear(112, 40), nn.ReLU(True), nn.Dropout(), nn.Linear(40, 5))
    return model


def _mobilenet_v3() -> nn.Module:
    row = partial(InvertedResidualConfig, width_mult=1.0)
    settings = [
        row(16, 3, 16, 16, True, "RE", 2, 1),
        row(16, 3, 56, 24, False, "RE", 2, 1),
        row(24, 5, 88, 24, True, "HS", 1, 1),
    ]
    return MobileNetV3(settings, last_channel=64, num_classes=5)


def _densenet() -> nn.Module:
    return DenseNet(growth_rate=12, block_config=(2, 3), num_init_features=18, bn_size=2, num_classes=5)


def _efficientnet() -> nn.Module:
    settings = [
        MBConvConfig(1, 3, 1, 16, 16, 1, 1.0, 1.0),
        MBConvConfig(6, 3, 2, 16, 24, 2, 1.0, 1.0),
        MBConvConfig(6, 5, 2, 24, 40, 1, 1.0, 1.0),
    ]
    return EfficientNet(settings, dropout=0.2, stochastic_depth_prob=0.0, num_classes=5, last_channel=96)


def _regnet() -> nn.Module:
    parameters = BlockParams.from_init_params(depth=5, w_0=24, w_a=24.0, w_m=2.5, group_width=8, se_ratio=0.25)
    return RegNet(parameters, num_classes=5)


def _shufflenet() -> nn.Module:
    """A unit without groups in front, one that concatenates and one that adds."""
    return nn.Sequential(
        ConvNormAct(3, 12, kernel=3),
        ShuffleUnit(12, 18, 48, stride=2, groups=3, reduce_groups=1, concatenate=True),
        ShuffleUnit(48, 36, 48, stride=1, groups=3, concatenate=False),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 4),
    )  # fmt: skip


def _mnasnet() -> nn.Module:
    """Kernels of 3 and of 5, expansions by 1, 3 and 6."""
    blocks = [(12, 10, 1, 3, False), (10, 14, 3, 5, False), (14, 14, 3, 5, True), (14, 18, 6, 3, False)]
    return nn.Sequential(
        ConvNormAct(3, 12, kernel=3),
        *(
            OurInvertedResidual(i, o, stride=1, expansion=e, kernel=k, residual=r, activation=nn.ReLU)
            for i, o, e, k, r in blocks
        ),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(18, 4),
    )  # fmt: skip


def _inception() -> nn.Module:
    return nn.Sequential(
        BasicConv2d(3, 12, kernel_size=3), Inception(12, 8, 6, 10, 4, 6, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(29, 5),
    )  # fmt: skip


def _vectors(size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(3, size, dtype=torch.float64)


def _two() -> tuple[Tensor, Tensor]:
    return images(8)(), torch.randn(2, 6, dtype=torch.float64)


def _keywords() -> dict[str, Tensor]:
    image, vector = _two()
    return {"image": image, "vector": vector}


def _ours(name: str, build: Callable[[], nn.Module], inputs: Callable[[], Any] | None = None, **rest: Any) -> Case:
    return Case(name=name, build=build, inputs=inputs or images(8), **rest)


def _theirs(name: str, build: Callable[[], nn.Module]) -> Case:
    return Case(name=name, build=build, inputs=images(32), slow=True)


CASES: tuple[Case, ...] = (
    _ours("chain", _chain, images(16)),
    _ours("residual", Residual),
    _ours("padded shortcut", PaddedShortcut),
    _ours("concat", Concat),
    _ours("depthwise multiplier", DepthwiseMultiplier),
    _ours("grouped conv", GroupedConv),
    _ours("channel shuffle", ChannelShuffle),
    _ours("chunk and split", ChunkAndSplit),
    _ours("split by list", SplitByList),
    _ours("rotary attention", RotaryAttention, lambda: torch.randn(2, 5, 12, dtype=torch.float64)),
    _ours("strided slices", StridedSlices, warns=True),
    _ours("flatten into linear", FlattenIntoLinear),
    _ours("used twice", UsedTwice),
    _ours("shared by two", SharedByTwo),
    _ours("shared inside", SharedInside),
    _ours("tied weights", TiedWeights, _vectors(12), both_ways=("encode.weight",)),
    _ours("root conv", partial(nn.Conv2d, 3, 16, 3), elastic=False, warns=True),
    _ours("root linear", partial(nn.Linear, 12, 16), _vectors(12), elastic=False, warns=True),
    _ours("transposed", Transposed),
    _ours("without affine", WithoutAffine),
    _ours("prelu", _prelu),
    _ours("squeeze-excite", SqueezeExcite),
    _ours("selective kernel", SelectiveKernel),
    _ours("glu", WithGlu),
    _ours("pixel shuffle", WithPixelShuffle),
    _ours("1d", Convolutions1d, lambda: torch.randn(3, 5, 12, dtype=torch.float64)),
    _ours("3d", Convolutions3d, lambda: torch.randn(2, 2, 4, 4, 4, dtype=torch.float64)),
    _ours("following buffers", FollowingBuffers),
    _ours("two inputs", TwoInputs, _two),
    _ours("keyword inputs", KeywordInputs, _keywords),
    _ours("u-net", UNet),
    _ours("auxiliary", Auxiliary),
    _ours("other norms", OtherNorms, masking=False),
    _ours("instance statistics", InstanceStatistics),
    _ours("shuffle units", _shufflenet),
    _ours("mnasnet blocks", _mnasnet),
    _theirs("basic blocks", partial(_resnet, BasicBlock)),
    _theirs("bottleneck", partial(_resnet, Bottleneck)),
    _theirs("resnext", partial(_resnet, Bottleneck, groups=32, width_per_group=4)),
    _theirs("inverted residuals", _mobilenet_v2),
    _theirs("shufflenet_v2 units", _shufflenet_v2),
    _theirs("mobilenet_v3", _mobilenet_v3),
    _theirs("vgg", _vgg),
    _theirs("densenet", _densenet),
    _theirs("inception", _inception),
    _theirs("efficientnet", _efficientnet),
    _theirs("regnet", _regnet),
    _theirs("squeezenet1_1", partial(models.squeezenet1_1, num_classes=5)),
)

KINDS = (
    "residual", "concat", "grouped conv", "rotary attention", "used twice", "tied weights", "root linear",
    "following buffers", "keyword inputs", "auxiliary", "other norms",
)  # fmt: skip
"""One model of each kind, for tests of what depends little on the structure."""


def cases(which: Callable[[Case], bool] = lambda _: True, *, few: bool = False) -> Sequence[Any]:
    """The models for `pytest.mark.parametrize`, the slow ones marked.

    Args:
        which: Selects models.
        few: Only one model of each kind runs by default; the others are slow.
    """
    return [
        pytest.param(
            case,
            id=case.name.replace(" ", "-"),
            marks=[pytest.mark.slow] if case.slow or (few and case.name not in KINDS) else [],
        )
        for case in CASES
        if which(case)
    ]


def find(name: str) -> Case:
    """The case of a name."""
    return next(case for case in CASES if case.name == name)
