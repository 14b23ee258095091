"""Optimizers: those that write weights behind autograd's back, and those of parameters that get no gradients.

Version counters of the weights tell when statistics and dense copies are out of date. Fused optimizers, and those that
write through `.data`, do not change them. Therefore this module raises them after every optimizer step on the weights
of a supernet.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.weak import WeakIdKeyDictionary

from anywidth.core.errors import AnywidthError

__all__ = ["refuse_steps", "watch"]

_watched = WeakIdKeyDictionary()
_refused = WeakIdKeyDictionary()


def watch(parameters: Iterable[Tensor]) -> None:
    """Raise the versions of these parameters after every optimizer step from now on."""
    _listen()
    for parameter in parameters:
        _watched[parameter] = True


def refuse_steps(leaf: nn.Parameter) -> None:
    """From now on, an optimizer of this parameter of a subnet raises: its gradient goes to the supernet's parameter."""
    _listen()
    _refused[leaf] = True


@cache
def _listen() -> None:
    register_optimizer_step_pre_hook(_check)
    register_optimizer_step_post_hook(_count)


def _check(optimizer: Optimizer, _: Any, __: Any) -> None:
    if _refused and any(parameter in _refused for group in optimizer.param_groups for parameter in group["params"]):
        raise AnywidthError(
            f"this {type(optimizer).__name__} has parameters of a subnet, whose gradients go to those of the supernet, "
            "so it would change nothing. Build it from net.parameters()"
        )


def _count(optimizer: Optimizer, _: Any, __: Any) -> None:
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    increment_version([parameter for parameter in parameters if parameter in _watched])
