"""Hooks of subnets, which copies of subnets do not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["SubnetHook"]


class SubnetHook:
    """A hook of a subnet, called with the subnet; copies of the subnet do not have it."""

    def __init__(self, function: Callable[[nn.Module], None]) -> None:
        self.function = function

    def __call__(self, subnet: nn.Module, *_: Any) -> None:
        """Run it."""
        self.function(subnet)

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_hook, ()


def _nothing(*_: Any) -> None:
    """Replaces a hook of the original in a copied subnet."""


def _no_hook() -> Callable[..., None]:
    return _nothing
