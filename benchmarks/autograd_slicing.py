"""The straightforward implementation of a slimmable network: layers that slice their weights in the forward."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.widths import WidthConfig

__all__ = ["SlicedNetwork"]


class _Conv(nn.Conv2d):
    kept: tuple[int, int]

    def forward(self, input: Tensor) -> Tensor:
        out, into = self.kept
        weight = self.weight[:out, :into]
        groups = self.groups if self.groups == 1 else out
        bias = None if self.bias is None else self.bias[:out]
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, groups)  # type: ignore[arg-type]


class _Norm(nn.BatchNorm2d):
    kept: tuple[int]

    def forward(self, input: Tensor) -> Tensor:
        (k,) = self.kept
        return F.batch_norm(input, None, None, self.weight[:k], self.bias[:k], True, 0.0, self.eps)


class _Linear(nn.Linear):
    kept: tuple[int, int]

    def forward(self, input: Tensor) -> Tensor:
        out, into = self.kept
        return F.linear(input, self.weight[:out, :into], self.bias[:out])


_SLICED: dict[type, type] = {nn.Conv2d: _Conv, nn.BatchNorm2d: _Norm, nn.Linear: _Linear}


class SlicedNetwork:
    """A copy of a supernet's model whose layers slice; `at(config)` switches the width."""

    def __init__(self, net: aw.Supernet) -> None:
        self.net = net
        self.model = copy.deepcopy(net.model).train()
        self.layers = []
        for name, module in self.model.named_modules():
            if type(module) in _SLICED:
                module.__class__ = _SLICED[type(module)]
                self.layers.append((f"{name}.weight", module))

    def at(self, config: WidthConfig) -> nn.Module:
        """The model, set to a config."""
        units = self.net.analysis.blocks(config)
        for name, module in self.layers:
            shape = self.net.analysis.shapes[name]
            kept = self.net.analysis.kept(name, units)
            sizes = [size if k is None else k for size, k in zip(shape, kept, strict=True)]
            assert all(isinstance(size, int) for size in sizes), "only leading blocks"
            module.kept = tuple(sizes[:2]) if isinstance(module, (_Conv, _Linear)) else tuple(sizes[:1])  # type: ignore[assignment]
        return self.model
