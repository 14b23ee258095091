"""Activation memory of a width."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from anywidth.core.tensors import tensors_in
from anywidth.groups.analysis import KeptIndices
from anywidth.groups.narrow import narrow, take
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["activation_memory"]


def activation_memory(net: Supernet, width: Width = 1.0) -> int:
    """Peak bytes per sample of inputs and intermediate results in a forward pass.

    The count is for PyTorch in evaluation mode, operator by operator, with the shape and dtype of the example inputs.
    It runs on the meta device, which computes nothing. Inputs count throughout; a result counts from the operator that
    creates it until its last reference is gone. Views and in-place writes are free. Weights and the workspace of
    kernels are not counted.

    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> activation_memory(net), activation_memory(net, 0.5)
    (88, 56)
    """
    with torch.no_grad():
        network = _on_meta(net, width)
        network.eval()
        inputs = net.inputs.map(lambda tensor: torch.empty_like(tensor, device="meta"))
        with _Live(inputs.tensors()) as live:
            inputs.call(network)
    return round(live.peak / net.samples)


def _on_meta(net: Supernet, width: Width) -> nn.Module:
    def bind(_: str, tensor: Tensor, kept: Sequence[KeptIndices]) -> Tensor:
        empty = torch.empty_like(take(tensor.detach(), kept), device="meta")
        return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty

    return narrow(net.model, net.analysis, net.analysis.blocks(net.config(width)), bind)


class _Live(TorchDispatchMode):
    """Counts the bytes of live storages."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()
        for tensor in inputs:
            self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        before = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
        for tensor in tensors_in(result):
            if tensor.untyped_storage()._cdata not in before:
                self._note(tensor)
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
