"""Snapshots of subnets, so that a subnet that the user has changed is not returned again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import chain
from operator import is_
from typing import Any
from weakref import ref

from torch import nn

__all__ = ["Snapshot"]

_REGISTERS = ("_modules", "_parameters")
_VARYING = frozenset(
    {"training", "_buffers", "_compiled_call_impl", "_flat_weights", "_flat_weight_refs", "_is_full_backward_hook"}
)
"""Attributes that training, calibration and compilation set. Hooks are ignored too: they may belong to a profiler."""


class Snapshot:
    """Modules, parameters and plain attributes of one subnet.

    It refers to the dictionaries of modules, but weakly to the subnet, which owns it.

    Args:
        subnet: The subnet.
        written: Attributes that forwards write.
    """

    def __init__(self, subnet: nn.Module, *written: Mapping[str, Collection[str]]) -> None:
        self._subnet = ref(subnet)
        self._left_out: frozenset[str] = frozenset()
        self._dicts: list[tuple[dict[str, Any], frozenset[str]]] = []
        for path, module in subnet.named_modules():
            state = module.__dict__
            skipped = _VARYING | {name for name in state if "_hooks" in name}
            skipped |= {name for each in written for name in each.get(path, ())}
            if module is subnet:  # its dictionary has the hook that owns this
                self._left_out = skipped
            else:
                self._dicts.append((state, skipped))
            self._dicts += [(state[name], frozenset()) for name in _REGISTERS]
        self._values = list(self._read())
        self._trained = self._flags()

    def is_current(self) -> bool:
        """Whether the subnet is unchanged."""
        try:
            now = list(self._read())
        except RuntimeError:  # a dictionary changes at this moment
            return False
        same = len(now) == len(self._values) and all(map(is_, now, self._values))
        return same and self._flags() == self._trained

    def _flags(self) -> list[bool]:
        return [value.requires_grad for value in self._values if isinstance(value, nn.Parameter)]

    def _read(self) -> Any:
        subnet = self._subnet()
        own = () if subnet is None else ((subnet.__dict__, self._left_out),)
        # `dict.values`, because registers of copies refresh what is read from them otherwise.
        return chain.from_iterable(
            [value for name, value in dict.items(content) if name not in left_out] if left_out else dict.values(content)
            for content, left_out in chain(own, self._dicts)
        )
