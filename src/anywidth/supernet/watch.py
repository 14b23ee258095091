"""Optimizers that write weights behind autograd's back.

What depends on weights (statistics, dense copies) is known to be out of date by the version counters of the
weights. Fused optimizers, and those that write through `.data`, do not count; so every step of any optimizer on
weights of a supernet is counted here.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["watch"]

_watched = WeakIdKeyDictionary()


def watch(parameters: Iterable[Tensor]) -> None:
    """From now on, every optimizer step raises the versions of these parameters."""
    _listen()
    for parameter in parameters:
        _watched[parameter] = True


@cache
def _listen() -> None:
    register_optimizer_step_post_hook(_count)


def _count(optimizer: Optimizer, _: Any, __: Any) -> None:
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    increment_version([parameter for parameter in parameters if parameter in _watched])
