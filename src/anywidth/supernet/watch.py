"""Optimizers that need attention: of parameters without gradients, and those that a gradient hook steps.

Version counters of the weights tell when statistics and dense copies are out of date. Fused optimizers, and those that
write through `.data`, do not change them. Therefore this module raises them after every optimizer step on the weights
of a supernet.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from anywidth.core.errors import AnywidthError, TrainingError
from anywidth.core.optimizers import parameters_of
from anywidth.core.parameter_table import ParameterTable
from anywidth.supernet.subnet_parameter import SubnetParameter

__all__ = ["check_kept", "several_widths", "watch"]

_watched: ParameterTable[ReferenceType[nn.Module]] = ParameterTable()
"""Models with a supernet, by parameter."""
_stepping: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Models that run a backward pass of a step of several widths, and the name of the step."""


def watch(model: nn.Module) -> None:
    """Raise the versions of a model's parameters after every optimizer step from now on."""
    _listen()
    owner = ref(model)
    _watched.replace(model, ((parameter, owner) for parameter in model.parameters()))


@contextmanager
def several_widths(model: nn.Module, step: str) -> Iterator[None]:
    """Context manager for a backward pass of a step of several widths, in which optimizers of the model raise.

    An optimizer that a gradient hook steps would update the weights with a part of the gradients.

    Args:
        model: The model.
        step: The name of the step, for the error.
    """
    _stepping[model] = step
    try:
        yield
    finally:
        _stepping.pop(model, None)


def check_kept(parameter: Tensor) -> None:
    """Raise if a hook has taken a gradient away in the middle of a step of several widths.

    Raises:
        TrainingError: it has, because it steps an optimizer that is not torch's.
    """
    step = _step_of(parameter)
    if step is not None and parameter.grad is None:
        raise _in_the_middle(step, "a gradient hook clears gradients")


def _step_of(parameter: Tensor) -> str | None:
    owner = _watched.get(parameter) if _stepping else None
    model = None if owner is None else owner()
    return None if model is None else _stepping.get(model)


def _in_the_middle(step: str, what: str) -> TrainingError:
    alone = ", or train one width per call: widths=[width]" if step == "sandwich_step" else ""
    return TrainingError(
        f"{what} inside the backward pass of {step}, which sums the gradients of several widths. Remove the hook "
        f"(register_post_accumulate_grad_hook) and step the optimizer after {step}{alone}"
    )


@cache
def _listen() -> None:
    register_optimizer_step_pre_hook(_check)
    register_optimizer_step_post_hook(_count)


def _check(optimizer: Optimizer, _: Any, __: Any) -> None:
    if any(isinstance(parameter, SubnetParameter) for parameter in parameters_of(optimizer)):
        raise AnywidthError(
            f"this {type(optimizer).__name__} has parameters of a subnet, whose gradients go to those of the supernet, "
            "so it would change nothing. Build it from net.parameters()"
        )

    for step in filter(None, map(_step_of, parameters_of(optimizer))) if _stepping else ():
        raise _in_the_middle(step, f"this {type(optimizer).__name__} steps")


def _count(optimizer: Optimizer, _: Any, __: Any) -> None:
    increment_version([parameter for parameter in parameters_of(optimizer) if parameter in _watched])
