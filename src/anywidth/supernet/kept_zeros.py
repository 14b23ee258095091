"""Entries of parameters that are zero and stay zero under every optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from anywidth.core.optimizers import parameters_of
from anywidth.core.parameter_table import ParameterTable
from anywidth.groups.later_shells import LaterEntries

__all__ = ["keep_zero", "nonzero", "zero_", "zero_gradients_"]


@dataclass
class _Zeros:
    """The entries of one parameter that are zero, and the version at which they were."""

    later: LaterEntries
    version: int = -1
    gradient: tuple[int, int, int] | None = None


_zeros: ParameterTable[_Zeros] = ParameterTable()
"""The entries that are zero, by parameter: optimizers do not know whose parameters they step."""


def keep_zero(model: nn.Module, entries: Iterable[tuple[Tensor, LaterEntries]]) -> None:
    """From now on, set entries of parameters to zero after every step of an optimizer, and their gradients before.

    Both are needed, because some optimizers mix the entries of a gradient.
    """
    _listen()
    _zeros.replace(model, ((parameter, _Zeros(later)) for parameter, later in entries))


def zero_(parameters: Iterable[Tensor]) -> None:
    """Set the entries of parameters that have to be zero to zero."""
    found = [(zeros, parameter) for parameter in parameters if (zeros := _zeros.get(parameter)) is not None]
    _zero_all((zeros.later, parameter.detach()) for zeros, parameter in found)
    for zeros, parameter in found:
        zeros.version = parameter._version


def zero_gradients_(parameters: Iterable[Tensor]) -> None:
    """Set the gradients of the entries that have to be zero to zero."""
    found = [(z, p.grad) for p in parameters if p.grad is not None and (z := _zeros.get(p)) is not None]
    found = [(zeros, gradient) for zeros, gradient in found if zeros.gradient != _state_of(gradient)]
    _zero_all((zeros.later, gradient) for zeros, gradient in found)
    for zeros, gradient in found:
        zeros.gradient = _state_of(gradient)


def nonzero(parameters: Mapping[str, Tensor], *, every: bool = False) -> str | None:
    """The name of a parameter with other numbers in entries that have to be zero.

    Args:
        parameters: The parameters, by name.
        every: Also read those whose version counter has not changed.
    """
    for name, parameter in parameters.items():
        zeros = _zeros.get(parameter)
        assert zeros is not None
        if zeros.version == parameter._version and not every:
            continue
        if any(bool(part.any()) for part in zeros.later.of(parameter.detach())):
            return name
        zeros.version = parameter._version
    return None


@cache
def _listen() -> None:
    register_optimizer_step_pre_hook(lambda optimizer, *_: zero_gradients_(parameters_of(optimizer)))
    register_optimizer_step_post_hook(lambda optimizer, *_: zero_(parameters_of(optimizer)))


@torch.no_grad()
def _zero_all(pairs: Iterable[tuple[LaterEntries, Tensor]]) -> None:
    """Set the entries of many tensors to zero, those that are views together."""
    views: list[Tensor] = []
    for later, tensor in pairs:
        found = later.views(tensor)
        if found is None:
            later.zero_(tensor)
        else:
            views += found
    if views:
        torch._foreach_zero_(views)  # pyright: ignore[reportPrivateImportUsage]


def _state_of(gradient: Tensor) -> tuple[int, int, int]:
    """Tells one gradient from another, and from the same one after it was written to."""
    return id(gradient), gradient.data_ptr(), gradient._version
