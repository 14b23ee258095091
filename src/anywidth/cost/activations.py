"""Memory that the activations of a width take."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from anywidth.groups.analysis import Kept
from anywidth.groups.narrow import narrow, take
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["activation_memory"]


def activation_memory(net: Supernet, width: Width = 1.0) -> int:
    """The most bytes per sample that inputs and intermediate results of a forward pass take at any moment.

    Counted for evaluation by PyTorch as it is, operator by operator, with the shape and type of the example inputs, on
    the meta device, where nothing is computed. Inputs count all the time; a result counts from the operator that makes
    it until nothing refers to it any more; views and writing in place take nothing. Weights, and what kernels need
    inside, do not count.

    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> activation_memory(net), activation_memory(net, 0.5)
    (88, 56)
    """
    with torch.no_grad():
        network = _on_meta(net, width).eval()
        inputs = net.inputs.map(lambda tensor: torch.empty_like(tensor, device="meta"))
        with _Live(inputs.tensors()) as live:
            inputs.call(network)
    return round(live.peak / net.samples)


def _on_meta(net: Supernet, width: Width) -> nn.Module:
    def bind(_: str, tensor: Tensor, kept: Sequence[Kept]) -> Tensor:
        empty = torch.empty_like(take(tensor.detach(), kept), device="meta")
        return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty

    return narrow(net.model, net.analysis, net.analysis.units(net.config(width)), bind)


class _Live(TorchDispatchMode):
    """Counts the bytes of the storages that are alive."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()
        for tensor in inputs:
            self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        before = {
            leaf.untyped_storage()._cdata for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in before:
                self._note(leaf)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
