"""The inputs of operators that read weights, in a narrowed network and in the masked graph."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Node
from torch.overrides import TorchFunctionMode

from anywidth.groups.capture import Capture
from anywidth.groups.labels import Array, varying

__all__ = ["Key", "Part", "Reads", "Site", "find_sites", "part_of", "sites_by_key"]

Key = tuple[str, ...]
"""The names of the parameters and buffers that an operator reads, directly or through values computed from them."""

_SAMPLES = np.array([0, 0.13, 0.31, 0.55, 0.78, 1])


@dataclass(frozen=True)
class Site:
    """An operator of the graph that reads weights: the weights, the number of earlier reads, and its other tensors.

    `made` tells which of these the forward creates (zeros, positions), in a shape that may follow channels.
    """

    key: Key
    index: int
    node: Node
    operands: tuple[Node, ...]
    made: tuple[bool, ...]


@dataclass(frozen=True)
class Part:
    """The compared part of one tensor: its kept channels, and a few positions of every other dimension.

    Attributes:
        shape: The shape in the narrowed network.
        kept: Kept positions of every dimension of the full tensor, None for all.
        sampled: Positions to compare of every dimension that carries no channels, None for all.
    """

    shape: tuple[int, ...]
    kept: tuple[Tensor | None, ...]
    sampled: tuple[Tensor | None, ...]

    def narrowed(self, tensor: Tensor) -> Tensor:
        """The compared part of the narrowed network's tensor, copied because it may be overwritten in place."""
        return _picked(tensor, self.sampled)

    def full(self, tensor: Tensor) -> Tensor:
        """The compared part of the full network's tensor."""
        return _picked(_picked(tensor, self.sampled, copied=False), self.kept)


def _picked(tensor: Tensor, positions: Sequence[Tensor | None], copied: bool = True) -> Tensor:
    whole = True
    for dim, indices in enumerate(positions):
        if indices is not None:
            tensor, whole = tensor.index_select(dim, indices), False
    return tensor.clone() if whole and copied else tensor


def part_of(shape: Sequence[int], label_arrays: Sequence[Array], kept: npt.NDArray[np.bool_]) -> Part | None:
    """The part of a value with these label arrays to compare, or None if the kept part is not a block.

    Args:
        shape: The shape at full width.
        label_arrays: The label arrays that broadcast to the value.
        kept: Whether each label is kept.
    """
    masks: list[npt.NDArray[np.bool_] | None] = [None] * len(shape)
    for label_array in label_arrays:
        mask = kept[label_array]
        dims = varying(label_array)
        each = [np.asarray(mask.any(tuple(d for d in range(mask.ndim) if d != dim))) for dim in sorted(dims)]
        if len(dims) > 1 and int(np.prod([m.sum() for m in each])) != int(mask.sum()):
            return None
        for dim, found in zip(sorted(dims), each, strict=True):
            before = masks[dim]
            masks[dim] = found if before is None else before & found
    indices = [None if m is None or m.all() else torch.from_numpy(np.flatnonzero(m)) for m in masks]
    return Part(
        shape=tuple(size if i is None else len(i) for size, i in zip(shape, indices, strict=True)),
        kept=tuple(indices),
        sampled=tuple(None if m is not None else _sample(size) for size, m in zip(shape, masks, strict=True)),
    )


def _sample(size: int) -> Tensor | None:
    return None if size <= len(_SAMPLES) + 2 else torch.from_numpy((_SAMPLES * (size - 1)).astype(np.int64))


def find_sites(capture: Capture, names: Mapping[str, str]) -> list[Site]:
    """The operators of a graph that read weights, in order; `names` maps every name of a tensor to its first."""
    owners: dict[Node, Key] = {}
    made: set[Node] = set()
    count: Counter[Key] = Counter()
    found = []
    for node in capture.program.graph.nodes:
        if node.op == "placeholder" and node.name in capture.tensors:
            owners[node] = (names[capture.tensors[node.name]],)
        elif node.op == "placeholder" and node.name in capture.constants:
            made.add(node)
        elif node.op == "call_function":
            if all(source in made for source in node.all_input_nodes):
                made.add(node)
            key = _joined(owners[source] for source in node.all_input_nodes if source in owners)
            others = tuple(source for source in node.all_input_nodes if source not in owners)
            if key and not others:
                owners[node] = key
            elif key:
                found.append(Site(key, count[key], node, others, tuple(other in made for other in others)))
                count[key] += 1
    return found


def sites_by_key(sites: Sequence[Site]) -> dict[Key, list[Site]]:
    """The operators of a graph by the weights that they read, in order."""
    found: dict[Key, list[Site]] = defaultdict(list)
    for site in sites:
        found[site.key].append(site)
    return dict(found)


def _joined(keys: Iterator[Key]) -> Key:
    return tuple(sorted({name for key in keys for name in key}))


class Reads(TorchFunctionMode):
    """Calls `note(key, index, tensors)` before every function of torch that reads weights together with other tensors.

    Values computed only from weights count as those weights.
    """

    def __init__(self, weights: Mapping[str, Tensor], note: Callable[[Key, int, list[Tensor]], None]) -> None:
        super().__init__()
        self._owners: dict[int, Key] = {}
        # An id is valid only while the tensor exists, and a forward may replace a buffer.
        self._alive = list(weights.values())
        self._note = note
        self.count: Counter[Key] = Counter()
        for name, tensor in weights.items():
            self._owners.setdefault(id(tensor), (name,))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        key = _joined(self._owners[id(t)] for t in tensors if id(t) in self._owners)
        if not key:
            return func(*args, **kwargs)
        others = list({id(t): t for t in tensors if id(t) not in self._owners}.values())
        if others:
            index, self.count[key] = self.count[key], self.count[key] + 1
            self._note(key, index, others)
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        for tensor in _tensors((result,)):
            if id(tensor) not in self._owners:
                self._owners[id(tensor)] = key
                self._alive.append(tensor)
        return result


def _tensors(items: Any) -> Iterator[Tensor]:
    for item in items:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _tensors(item)
