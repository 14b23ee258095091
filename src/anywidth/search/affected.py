"""Modules affected by narrowing a channel group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig

__all__ = ["affected_modules", "changed_modules", "paths_above"]


def paths_above(name: str) -> Iterator[str]:
    """Paths of all modules that contain a name, including the root (an empty path).

    >>> list(paths_above("layer1.conv.weight"))
    ['layer1.conv', 'layer1', '']
    """
    while "." in name:
        name = name.rpartition(".")[0]
        yield name
    yield ""


def affected_modules(net: Supernet) -> dict[str, frozenset[str]]:
    """Paths of all modules that contain a tensor or an integer of the group, for every elastic group.

    >>> import torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> sorted(affected_modules(net)["0"])
    ['', '0', '1']
    """
    analysis = net.analysis
    found: dict[int, set[str]] = {number: set() for number in range(len(analysis.groups))}
    for name, first in analysis.names.items():
        for axis in analysis.axes.get(first, ()):
            for number in () if axis is None else np.unique(axis.group):
                if number >= 0:
                    found[int(number)].update(paths_above(name))
    for path, attributes in analysis.attributes.items():
        for attribute in attributes.values():
            for options in attribute.choices:
                for scale, _ in options:
                    for number, _ in scale.parts:
                        found[int(number)].update((path, *paths_above(path)))
    return {
        group.name: frozenset(found[number]) for number, group in enumerate(analysis.groups) if group.frozen is None
    }


def changed_modules(affected: Mapping[str, frozenset[str]], config: WidthConfig, base: WidthConfig) -> set[str]:
    """Paths of modules that differ between two configs."""
    return {path for name, paths in affected.items() if config[name] != base[name] for path in paths}
