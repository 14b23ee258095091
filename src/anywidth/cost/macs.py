"""Multiply-adds of a width, counted without running it."""

from __future__ import annotations

from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["macs", "uncounted_operators"]


def macs(net: Supernet, width: Width = 1.0, *, pooling: bool = False) -> int:
    """MACs per sample of a width, for the shape of the example inputs.

    One MAC is one multiply-add; FLOPs are twice that. Counted: convolutions, linear layers, matrix products, recurrent
    layers and attention (the products of queries with keys, masked or not, and of the result with values). An einsum
    counts as the matrix products of two operands that PyTorch computes one after the other. The count of all example
    inputs is divided by the number of samples in them, which `Supernet(..., samples=...)` can say; what is computed
    from weights alone (a low-rank weight, say) is the same for any batch, and counts once. Not counted: biases, norms,
    activations and every other element-wise operator (so outer products, in any notation, which add nothing up),
    softmax, and max pooling (`uncounted_operators` lists those of a network; `Supernet.summary` names those that are
    not element-wise). With `pooling`, an average pool counts its inputs (channels x positions), which is the convention
    of the published tables.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> macs(net), macs(net, 0.5)
    (96, 48)
    """
    units = net.analysis.units(net.config(width))
    return sum(o.count(units) for o in net.analysis.operators if pooling or o.kind != "average pool")


def uncounted_operators(net: Supernet) -> dict[str, int]:
    """Operators of the network that `macs` does not count, with the number of calls."""
    return dict(net.analysis.uncounted)
