"""Stages of a network, and widths that narrow a single stage."""

from __future__ import annotations

from collections import Counter

from anywidth.supernet import Supernet
from anywidth.widths import Width, check_width

__all__ = ["stages", "widths_by_stage"]


def stages(net: Supernet) -> dict[str, tuple[str, ...]]:
    """Elastic groups of every stage, by the name of the stage's module.

    Stages are the children of the model, or of a child that contains more than half of the elastic groups, such as
    `features` in many networks.

    >>> import torch
    >>> from torch import nn
    >>> layers = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    >>> stages(Supernet(nn.Sequential(layers, nn.Softmax(-1)), torch.randn(1, 4)))
    {'0.0': ('0.0',), '0.1': ('0.1',)}
    """
    names = [group.name for group in net.analysis.elastic]
    depth = 1
    while True:
        heads = [_head(name, depth) for name in names]
        head, count = Counter(heads).most_common(1)[0] if heads else ("", 0)
        if 2 * count <= len(names) or all(_head(name, depth + 1) == head for name in names):
            break
        depth += 1
        names = [name for name in names if _head(name, depth - 1) == head]
    found: dict[str, tuple[str, ...]] = {}
    for group in net.analysis.elastic:
        # Groups outside the opened child, such as the stem's, form stages by their own child.
        stage = _head(group.name, depth) if group.name in names else _head(group.name, 1)
        found[stage] = (*found.get(stage, ()), group.name)
    return found


def widths_by_stage(net: Supernet, factor: float, *, base: float = 1.0) -> dict[str, Width]:
    """For every stage, the network at width `base` with only this stage narrowed by `factor`.

    Args:
        net: The supernet.
        factor: Factor on the width of the stage, in (0, 1).
        base: Width of all other stages.

    Raises:
        WidthError: a width is out of range for the network.

    Source: US-Nets (arXiv 1903.05134), where the factor is 0.6.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> [dict(net.config(width)) for width in widths_by_stage(net, 0.5).values()]
    [{'0': 8, '1': 16}, {'0': 16, '1': 8}]
    """
    check_width(base, net.min_width)
    narrow = check_width(base * factor, net.min_width, f"width {base:g} times {factor:g}")
    everything = stages(net)
    found: dict[str, Width] = {}
    for stage, groups in everything.items():
        others = {} if base == 1.0 else {name: base for part in everything.values() for name in part}
        found[stage] = {**others, **dict.fromkeys(groups, narrow)}
    return found


def _head(name: str, depth: int) -> str:
    return ".".join(name.split(".")[:depth])
