"""What a propagation counts: operators with their MACs, and integers that forwards pass."""

from __future__ import annotations

from dataclasses import dataclass

from anywidth.groups.labels import Array

__all__ = ["Cost", "SizeUse"]


@dataclass(frozen=True)
class Cost:
    """One counted operator: MACs at full width, the label arrays that scale them, and the weight that it multiplies.

    Products without a sum also make channels, and have 0 MACs.

    `out_dims` are the dimensions of the weight along which the operator makes new channels, if it makes any.
    `inputs` are the positions of the network's inputs that the operator computes from, and `sizes` those whose size the
    forward repeats something to. An operator that depends on neither the samples nor their number is computed once.
    """

    module: str
    operator: str
    kind: str
    macs: int
    label_arrays: tuple[Array, ...]
    weight: str | None = None
    out_dims: tuple[int, ...] = ()
    inputs: frozenset[int] = frozenset()
    sizes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class SizeUse:
    """An integer that a forward passed to an operator, and the labels of the dimension that it counts (if any).

    `attribute` names the module's attribute if it is certain; otherwise it is found by its value. Numbers from one list
    have the same `call`.
    """

    module: str
    value: int
    label_array: Array | None
    dim: int = 0
    attribute: str | None = None
    call: int = -1
