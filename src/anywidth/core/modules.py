"""Tensors, device and train/eval modes of a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["model_device", "module_modes", "named_tensors", "on_meta"]


def model_device(model: nn.Module) -> torch.device:
    """Device of the first parameter of a model; the CPU if the model has no parameters."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by name; a tensor with several names appears under each of them."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def on_meta(tensor: Tensor) -> Tensor:
    """Empty tensor of the same shape on the meta device; parameters stay parameters."""
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


@contextmanager
def module_modes(model: nn.Module, training: bool | None = None) -> Iterator[None]:
    """Context manager that restores the train/eval mode of every module. `training`, if given, sets all modes first."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        if training is not None:
            model.train(training)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
