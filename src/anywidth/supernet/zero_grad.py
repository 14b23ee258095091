"""Refuse `zero_grad` of a subnet, which would silently clear nothing."""

from __future__ import annotations

from typing import Any, NoReturn
from weakref import ref

from torch import nn

from anywidth.core.errors import AnywidthError

__all__ = ["refuse_zero_grad"]


def refuse_zero_grad(subnet: nn.Module) -> None:
    """From now on, `zero_grad` of a subnet and of its modules raises: their gradients are in the supernet."""
    for module in subnet.modules():
        module.__dict__["zero_grad"] = _Refusal(module)


class _Refusal:
    """Raises when it is called; a copy of the module has the ordinary method."""

    def __init__(self, module: nn.Module) -> None:
        self._module = ref(module)  # weak, so that the subnet is freed as soon as nobody uses it

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise AnywidthError(
            "zero_grad() of a subnet would change nothing, because its gradients are added to those of the supernet's "
            "parameters. Call optimizer.zero_grad() of an optimizer of net.parameters(), or net.model.zero_grad()"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._module(), "zero_grad")
