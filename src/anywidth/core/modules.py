"""Tensors, device and modes of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["model_device", "module_modes", "named_tensors", "on_meta"]


def model_device(model: nn.Module) -> torch.device:
    """Where the first parameter of a model is; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name; one that has several names is listed under all of them."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def on_meta(tensor: Tensor) -> Tensor:
    """A tensor of the same shape on the meta device, where nothing is computed; a parameter stays one."""
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


@contextmanager
def module_modes(model: nn.Module, training: bool | None = None) -> Iterator[None]:
    """Put every module's train/eval flag back at the end, whatever happens; `training` sets them all first."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        if training is not None:
            model.train(training)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
