"""Values by parameter, for as long as a model lives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar
from weakref import ReferenceType, ref

from torch import Tensor, nn

__all__ = ["ParameterTable"]

V = TypeVar("V")


class ParameterTable(Generic[V]):
    """Values by parameter of models, which end with the models.

    Parameters have no weak references to them, because torch cannot swap a parameter that has one
    (`torch.__future__.set_swap_module_params_on_conversion`).

    >>> model, table = nn.Linear(4, 2), ParameterTable()
    >>> table.replace(model, [(model.weight, "matrix")])
    >>> table.get(model.weight), table.get(model.bias)
    ('matrix', None)
    """

    def __init__(self) -> None:
        self._entries: dict[int, tuple[Tensor, V, ReferenceType[nn.Module]]] = {}

    def replace(self, model: nn.Module, values: Iterable[tuple[Tensor, V]]) -> None:
        """Set the values of a model's parameters, in place of all earlier values of this model."""
        self._drop([number for number, (_, _, other) in self._entries.items() if other() is model])
        owner = ref(model, lambda dead: self._drop([n for n, (_, _, other) in self._entries.items() if other is dead]))
        self._entries |= {id(parameter): (parameter, value, owner) for parameter, value in values}

    def get(self, parameter: Tensor) -> V | None:
        """The value of a parameter, or None."""
        entry = self._entries.get(id(parameter))
        return None if entry is None else entry[1]

    def __contains__(self, parameter: Tensor) -> bool:
        return id(parameter) in self._entries

    def __bool__(self) -> bool:
        return bool(self._entries)

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            del self._entries[number]
