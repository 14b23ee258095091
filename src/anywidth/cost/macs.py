"""Multiply-adds of a width, counted without running it."""

from __future__ import annotations

from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["macs", "progressive_macs", "uncounted_operators"]


def macs(net: Supernet, width: Width = 1.0, *, pooling: bool = False, dense: bool = False) -> int:
    """MACs per sample of a width, for the shape of the example inputs.

    One MAC is one multiply-add; FLOPs are twice that.

    Counted: convolutions, linear layers, matrix products, recurrent layers and attention (the products of queries with
    keys, masked or not, and of the result with values). An einsum counts as the pairwise matrix products that PyTorch
    computes. The count for all example inputs is divided by their number of samples, which `Supernet(..., samples=...)`
    can set. Operators on weights alone (such as a low-rank weight) do not depend on the batch and count once.

    Not counted: biases, norms, activations and other element-wise operators (including outer products in any notation,
    which add nothing up), softmax, and max pooling. `uncounted_operators` lists those of a network; `Supernet.summary`
    names those that are not element-wise. With `pooling`, an average pool counts its inputs (channels x positions), as
    in published tables.

    Of a nested network, products with weights that are zero because they would read later shells do not count. With
    `dense` they do, as a kernel that does not skip them computes them.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> macs(net), macs(net, 0.5)
    (96, 48)
    """
    config = net.config(width)
    blocks = net.analysis.blocks(config)
    counted = [operator for operator in net.analysis.operators if pooling or operator.kind != "average pool"]
    if not net.nested or dense:
        return sum(operator.count(blocks) for operator in counted)
    shells = net.shells
    shares = {weight: shells.share_kept(weight, config) for weight in {o.weight for o in counted} if weight is not None}
    return sum(round(o.count(blocks) * (1.0 if o.weight is None else shares.get(o.weight, 1.0))) for o in counted)


def progressive_macs(net: Supernet) -> tuple[int, ...]:
    """MACs per sample up to the answer at each width of a nested network, refined from the narrowest width.

    They are those of the width, because nothing is computed twice, and those of the tails (such as the classifier) of
    the narrower widths. Counted as in `macs`; not counted is the one block that a group without new channels repeats.

    Raises:
        WidthError: the network is not nested.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    >>> progressive_macs(Supernet(model, torch.randn(1, 4), nested=(0.5, 1.0)))
    (112, 304)
    """
    found, tails = [], 0
    for config in net.shells.widths:
        blocks = net.analysis.blocks(config)
        found.append(macs(net, config) + tails)
        tails += sum(o.count(blocks) for o in net.analysis.operators if o.weight in net.shells.nesting.tail)
    return tuple(found)


def uncounted_operators(net: Supernet) -> dict[str, int]:
    """Operators of the network that `macs` does not count, with their number of calls."""
    return dict(net.analysis.uncounted)
