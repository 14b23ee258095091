"""What every kind of training step does: its checks and its result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar
from weakref import WeakSet

from torch import Tensor, nn

from anywidth.core.errors import NotFiniteError
from anywidth.groups.wrappers import check_unsharded, check_unwrapped
from anywidth.supernet import Supernet
from anywidth.training.automatic_optimization import check_manual_optimization
from anywidth.widths import WidthConfig

__all__ = ["SandwichResult", "check_losses", "check_wrapping", "looks_at", "settled"]

P = ParamSpec("P")
R = TypeVar("R")

_looked: WeakSet[nn.Module] = WeakSet()
"""Models on a GPU whose first targets were checked; checking those of every step would make it wait."""
_unwrapped: WeakSet[nn.Module] = WeakSet()
"""Unwrapped models that several processes train."""


@dataclass(frozen=True, kw_only=True)
class SandwichResult:
    """The result of one step.

    Attributes:
        configs: The trained configs, the widest first; two random widths may round to the same config.
        losses: Their detached losses, shape (len(configs),).
        output: The detached output of the first config.
    """

    configs: tuple[WidthConfig, ...]
    losses: Tensor
    output: Any


def settled(step: Callable[P, R]) -> Callable[P, R]:
    """Decorator that checks for changes of the model once per step instead of at every width."""

    @wraps(step)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        net: Any = args[0] if args else kwargs["net"]
        with net.settled():
            return step(*args, **kwargs)

    return once


def check_losses(result: SandwichResult) -> None:
    """Raise on a NaN or infinite loss; a GPU is waited for.

    Raises:
        NotFiniteError: a loss is not finite; the message names the widths.
    """
    if not math.isfinite(float(result.losses.sum())):
        pairs = zip(result.configs, result.losses.tolist(), strict=True)
        bad = [str(config) for config, value in pairs if not math.isfinite(value)]
        raise NotFiniteError(
            f"the loss is not finite at width {', '.join(bad)}; the weights have not been updated. "
            "Lower the learning rate, clip gradients, or check the data for NaN"
        )


def check_wrapping(net: Supernet, *, together: bool) -> None:
    """Raise if Lightning runs backward, or if the network was sharded or wrapped after the supernet was built."""
    check_manual_optimization()
    if getattr(net.model, "_is_fsdp_managed_module", False):
        check_unsharded(net.model)
    if together and net.model not in _unwrapped:
        check_unsharded(net.model)
        check_unwrapped(net.model)
        _unwrapped.add(net.model)


def looks_at(model: nn.Module, targets: Any) -> bool:
    """Whether to check the values of targets, which is free on a CPU but makes a GPU wait."""
    if isinstance(targets, Tensor) and targets.device.type == "cpu":
        return True
    if model in _looked:
        return False
    _looked.add(model)
    return True
