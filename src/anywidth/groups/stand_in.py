"""Copies of a model for proofs: in another precision, and with weights that do not hide errors."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from anywidth.core.inputs import Inputs
from anywidth.core.modules import named_tensors
from anywidth.groups.duplicate import duplicate

__all__ = ["KINDS", "Kind", "cast", "stand_in", "varied"]

Kind = Literal["random", "small", "positive", "noisy", "own"]
"""Kinds of weights of a copy: random, a tenth as large, positive, the user's with noise, the user's."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""All kinds, in the order of trial if earlier ones leave the domain of a function."""

_PERIOD = 1_000_003
"""A prime, so that rows repeat only in tensors with more rows than this, or with longer rows."""


def stand_in(
    model: nn.Module, dtype: torch.dtype, kind: Kind, *, seed: int, gain: float = 1.0, training: bool = False
) -> nn.Module:
    """A copy of a model in evaluation or training mode, on the CPU, in `dtype`, with weights of `kind` times `gain`.

    With random weights, neither a zero-initialized layer nor a tiny layer scale can hide a difference.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors = {id(tensor): tensor for tensor in named_tensors(model).values()}
    made = {key: _weight(tensor, dtype, kind, gain, generator) for key, tensor in tensors.items()}
    copied = duplicate(model, made)
    copied.train(training)
    if kind != "own":
        _randomise_statistics(copied, generator)
    return copied


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU, in `dtype` (or its complex counterpart) unless it contains integers."""
    tensor = tensor.detach().cpu()
    if tensor.is_complex():
        return tensor.to(torch.promote_types(dtype, torch.complex32))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def varied(inputs: Inputs, seed: int) -> Inputs | None:
    """Inputs with normal noise in constant tensors; None if there are no constant tensors.

    Channels made from zeros are all equal, so nothing about their order could be proved.
    """
    generator = torch.Generator().manual_seed(seed)
    changed = []

    def vary(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.numel() < 2 or not bool((tensor == tensor.flatten()[0]).all()):
            return tensor
        changed.append(True)
        return tensor + torch.randn(tensor.shape, generator=generator).to(tensor)

    result = inputs.map(vary)
    return result if changed else None


def _weight(tensor: Tensor, dtype: torch.dtype, kind: Kind, gain: float, generator: torch.Generator) -> Tensor:
    value = cast(tensor, dtype)
    if not isinstance(tensor, nn.Parameter):
        return value.clone()
    if tensor.is_floating_point() and kind != "own":
        value = _random(value, kind, gain, generator)
    return nn.Parameter(value.clone() if value is tensor or kind == "own" else value, requires_grad=False)


def _random(own: Tensor, kind: Kind, gain: float, generator: torch.Generator) -> Tensor:
    """A random weight: normal matrices that preserve the size of activations, vectors of 0.5 to 1.5 times the user's.

    Small numbers in the user's vectors are replaced by one, so that they do not hide the values they multiply. The sign
    of a scalar stays, because a forward may depend on it. Vectors are positive, so that activations do not become
    zeros.
    """
    if kind == "noisy":
        spread = 0.1 * float(own.std(correction=0)) + 0.01 if own.numel() else 0.0
        return own + _normal(own.numel(), generator).reshape(own.shape).to(own.dtype).mul_(spread)
    if own.ndim < 2:
        size = own.abs().where(own.abs() > 0.1, 1).nan_to_num(1.0, 1.0, 1.0)
        sign = torch.where(own < 0, -1, 1) if own.numel() == 1 else 1
        return (torch.rand(own.shape, generator=generator, dtype=own.dtype) + 0.5) * size * sign
    spread = gain * math.sqrt(2 / max(1, own.shape[1:].numel())) * (0.1 if kind == "small" else 1)
    value = _normal(own.numel(), generator).reshape(own.shape).to(own.dtype).mul_(spread)
    return value.abs_() if kind == "positive" else value


def _normal(number: int, generator: torch.Generator) -> Tensor:
    """Normal random numbers in single precision, repeated after a period, because drawing millions is slow."""
    drawn = torch.randn(min(number, _PERIOD), generator=generator)
    return drawn.repeat(-(-number // drawn.numel()))[:number] if number else drawn


@torch.no_grad()
def _randomise_statistics(model: nn.Module, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            assert module.running_var is not None
            shape, dtype = module.running_mean.shape, module.running_mean.dtype
            module.running_mean.copy_(torch.randn(shape, generator=generator, dtype=dtype) * 0.1)
            module.running_var.copy_(torch.rand(shape, generator=generator, dtype=dtype) + 0.5)
