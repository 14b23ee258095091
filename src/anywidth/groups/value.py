"""Values of the graph with channel labels, and operands of operators."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from anywidth.groups.labels import Array

__all__ = ["Operand", "Value", "multiplied"]


@dataclass
class Value:
    """A tensor of the graph: its shape and the label arrays that broadcast to it.

    `tensor` names the parameter or buffer that the value is, if any. `made_from` is the largest parameter that a value
    is computed from, if it is computed only from parameters (such as a standardized weight). `origin` describes where
    an unlabelled value comes from, for frozen reasons. A `shape_follows` value is created by the forward and may follow
    whatever it meets; the proof decides whether it does. So may dimensions of a value that was expanded: `follows`
    contains labels for them, which tell what a number given as their size counts once they met something.
    """

    shape: tuple[int, ...]
    label_arrays: list[Array] = field(default_factory=list)
    tensor: str | None = None
    origin: str = "a tensor of fixed size"
    shape_follows: bool = False
    made_from: Value | None = None
    follows: dict[int, Array] = field(default_factory=dict)

    @property
    def source(self) -> Value | None:
        """The parameter or buffer that the value is, or is computed from."""
        return self if self.tensor else self.made_from

    @property
    def weight(self) -> str | None:
        """The name of the parameter whose dimensions this value has."""
        source = self.source
        return source.tensor if source is not None and source.shape == self.shape else None


@dataclass(frozen=True)
class Operand:
    """A value with one letter (any hashable name) per dimension."""

    value: Value
    axis_names: tuple[object, ...]


def multiplied(operands: Sequence[Operand], out: Iterable[object]) -> tuple[str | None, tuple[int, ...]]:
    """The first weight among operands, and the dimensions along which it makes channels of the result."""
    weight = next((operand for operand in operands if operand.value.weight), None)
    if weight is None:
        return None, ()
    kept = set(out)
    return weight.value.weight, tuple(dim for dim, axis_name in enumerate(weight.axis_names) if axis_name in kept)
