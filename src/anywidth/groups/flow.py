"""Values with channel labels, and the primitives for the rules of operators."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from anywidth.groups.counts import Cost, SizeUse
from anywidth.groups.labels import FIXED, Array, Labels, first_along, varying
from anywidth.groups.value import Operand, Value, multiplied

__all__ = ["Flow"]


@dataclass
class Flow:
    """State of one propagation: the labels, the current node, the counts and the ties that are still to be made.

    `split_points` are parts of dimensions that end at a slice or a split. Channels on its two sides do not belong to
    one group, because dropping some would move those of the other side. `unknown` counts operators without a record,
    `uncounted` those without MACs. `used` names the tensors that a forward reads.
    """

    labels: Labels
    operator: str = ""
    module: str = ""
    costs: list[Cost] = field(default_factory=list)
    uncounted: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    used: set[str] = field(default_factory=set)
    node_label_arrays: dict[str, list[Array]] = field(default_factory=dict)
    splits: list[tuple[Array, frozenset[int], str]] = field(default_factory=list)
    size_uses: list[SizeUse] = field(default_factory=list)
    split_points: list[Array] = field(default_factory=list)
    inputs: frozenset[int] = frozenset()
    repeats: frozenset[int] = frozenset()

    @property
    def where(self) -> str:
        """Text of the current operator and module."""
        return f"{self.operator} in {self.module or 'the root module'}"

    # -- single values ---------------------------------------------------------------------------------

    def label_arrays(self, value: Value) -> list[Array]:
        """The value's label arrays in canonical form, without constant ones."""
        compressed = (self.labels.compress(label_array) for label_array in value.label_arrays)
        return [label_array for label_array in compressed if varying(label_array)]

    def along(self, value: Value, dim: int) -> Array | None:
        """Labels of one dimension as a vector, or None; label arrays that also depend on other dimensions are tied."""
        vector: Array | None = None
        dim %= len(value.shape)
        for label_array in self.label_arrays(value):
            if dim not in varying(label_array):
                continue
            flat = self.labels.tie(label_array, varying(label_array) - {dim}, self.where).reshape(-1)
            if vector is not None:
                self.labels.union(vector, flat, self.where)
            vector = flat
        return vector

    def freeze(self, value: Value, reason: str | None = None, dims: Iterable[int] | None = None) -> None:
        """Freeze all label arrays of a value, or keep some dimensions whole and tie arrays that have other ones too."""
        wanted = None if dims is None else set(dims)
        for label_array in self.label_arrays(value):
            if wanted is None or varying(label_array) <= wanted:
                self.labels.freeze(label_array, reason or f"no rule for {self.where}")
            else:
                self.labels.tie(label_array, wanted, self.where)
        for dim, vector in value.follows.items():
            if wanted is None or dim in wanted:
                self.labels.freeze(vector, reason or f"no rule for {self.where}")

    def require_equal(self, a: Array | None, b: Array | None, origin: str) -> None:
        """Require the same channels on both sides; if one side (of this origin) has no labels, freeze the other."""
        if a is not None and b is not None:
            self.labels.union(a, b, self.where)
        elif a is not None or b is not None:
            self.labels.freeze(a if a is not None else b, f"meets {origin} at {self.where}")  # type: ignore[arg-type]

    def reduce(self, label_array: Array, dims: set[int]) -> Array:
        """A label array after a reduction over `dims`: independent of them (tied if it depends on others as well)."""
        over = varying(label_array) & dims
        if not over:
            return label_array
        if varying(label_array) - dims:
            return self.labels.tie(label_array, over, self.where)
        return np.ones([1] * label_array.ndim, np.int64)

    def number(self, value: int, vector: Array | None, attribute: str | None = None) -> None:
        """Record an integer argument of the current module and the labels that it counts."""
        self.size_uses.append(SizeUse(self.module, value, vector, 0, attribute))

    def sizes(self, value: Value, sizes: Sequence[object], first: int = 0) -> None:
        """Record sizes that were given as numbers for the dimensions of a value, from dimension `first`."""
        call = len(self.size_uses)
        for dim, size in enumerate(sizes, first):
            if isinstance(size, int) and size > 1:
                label_array = first_along(value.label_arrays, dim)
                place = dim
                if label_array is None and dim in value.follows:
                    label_array, place = value.follows[dim], 0
                self.size_uses.append(SizeUse(self.module, size, label_array, place, call=call))

    # -- several values --------------------------------------------------------------------------------

    def merge(self, operands: Sequence[Operand], out: Sequence[object]) -> tuple[list[Array], list[Array]]:
        """Label arrays of an element-wise operator or contraction, as in einsum: of the result, and of summed dims.

        Operands that share a letter must keep the same positions along it. A letter that an operand has without labels
        cannot be narrowed. A letter missing from `out` is summed over.
        """
        axis_names = tuple(dict.fromkeys(axis_name for operand in operands for axis_name in operand.axis_names))
        place = {axis_name: i for i, axis_name in enumerate(axis_names)}
        kept = set(out)
        contracted = {place[axis_name] for axis_name in axis_names if axis_name not in kept}
        spread: list[tuple[set[int], list[Array], Value]] = []
        for operand in operands:
            full = {
                place[axis_name]
                for dim, (axis_name, size) in enumerate(zip(operand.axis_names, operand.value.shape, strict=True))
                if size > 1 and not operand.value.shape_follows and dim not in operand.value.follows
            }
            label_arrays = [self._spread(f, operand.axis_names, place) for f in self.label_arrays(operand.value)]
            spread.append((full, label_arrays, operand.value))
        self._follow(operands, [label_arrays for _, label_arrays, _ in spread], place)
        pool: list[Array] = []
        for number, (_, label_arrays, _) in enumerate(spread):
            for label_array in label_arrays:
                if varying(label_array) - contracted:
                    label_array = self.labels.tie(label_array, varying(label_array) & contracted, self.where)
                for other, (full, partners, value) in enumerate(spread):
                    if other == number:
                        continue
                    labelled = set().union(*(varying(p) for p in partners)) if partners else set()
                    fixed = (varying(label_array) & full) - labelled
                    if fixed:
                        label_array = self._fix(label_array, fixed, value.origin)
                if varying(label_array):
                    pool.append(label_array)
        merged = self._merge_overlapping(pool)
        targets = {axis_name: i for i, axis_name in enumerate(out)}
        result = []
        for label_array in merged:
            if varying(label_array) - contracted:
                shape = [1] * len(targets)
                for axis_name, i in targets.items():
                    shape[i] = label_array.shape[place[axis_name]]
                order = [place[axis_name] for axis_name in targets]
                rest = [i for i in range(label_array.ndim) if i not in order]
                result.append(np.transpose(label_array, order + rest).reshape(shape))
        return result, [f for f in merged if not (varying(f) - contracted)]

    def _follow(
        self, operands: Sequence[Operand], label_arrays: Sequence[list[Array]], place: dict[object, int]
    ) -> None:
        """Unite the labels of expanded dimensions with those that they meet."""
        for number, operand in enumerate(operands):
            for dim, vector in operand.value.follows.items():
                axis_name = operand.axis_names[dim]
                for other, partner in enumerate(operands):
                    if other == number:
                        continue
                    for label_array in label_arrays[other]:
                        if varying(label_array) == {place[axis_name]}:
                            self.labels.union(label_array.reshape(-1), vector, self.where)
                    for position, met in partner.value.follows.items():
                        if partner.axis_names[position] == axis_name and met.size == vector.size:
                            self.labels.union(met, vector, self.where)

    def contract(self, operands: Sequence[Operand], out: Sequence[object], kind: str) -> list[Array]:
        """`merge` of a contraction, counted as an operator of this kind."""
        result, summed = self.merge(operands, out)
        sizes: dict[object, int] = {}
        for operand in operands:
            for axis_name, size in zip(operand.axis_names, operand.value.shape, strict=True):
                sizes[axis_name] = max(size, sizes.get(axis_name, 1))
        self.record(kind, math.prod(sizes.values()), [*result, *summed], *multiplied(operands, out))
        return result

    def record(
        self,
        kind: str,
        macs: int,
        label_arrays: Iterable[Array],
        weight: str | None = None,
        out_dims: tuple[int, ...] = (),
    ) -> None:
        """Count an operator's MACs at full width; they shrink with every label array."""
        scales = tuple(label_array.reshape(-1) for label_array in label_arrays)
        self.costs.append(
            Cost(self.module, self.operator, kind, macs, scales, weight, out_dims, self.inputs, self.repeats)
        )

    def elementwise(self, values: Sequence[Value], shape: tuple[int, ...]) -> list[Array]:
        """Label arrays of an element-wise operator on broadcast operands."""
        operands = [
            Operand(value, tuple(range(len(shape) - len(value.shape), len(shape))))
            for value in values
            if value.label_arrays or any(size > 1 for size in value.shape)
        ]
        return self.merge(operands, tuple(range(len(shape))))[0]

    def carried(self, values: Sequence[Value], shape: tuple[int, ...]) -> dict[int, Array]:
        """The dimensions of a broadcast result that may still follow: those that no operand certainly has."""
        found: dict[int, Array] = {}
        for dim in range(len(shape)):
            vectors = []
            for value in values:
                own = dim - (len(shape) - len(value.shape))
                if own < 0 or value.shape[own] == 1:
                    continue
                if own not in value.follows:
                    break
                vectors.append(value.follows[own])
            else:
                if vectors and vectors[0].size == shape[dim]:
                    found[dim] = vectors[0]
        return found

    def settle_splits(self) -> None:
        """Tie reshaped channels until the kept part of every split dimension is a full block.

        `view(batch, a, b)` of a*b channels remains possible only if just one of a and b shrinks. If the rest of the
        graph does not determine which, it is the innermost.
        """
        changed = True
        while changed:
            changed = False
            for label_array, dims, where in self.splits:
                compressed = self.labels.compress(label_array)
                several = sorted(varying(compressed) & dims)
                if len(several) > 1:
                    self.labels.tie(compressed, set(several[:-1]), where)
                    # Fixed positions never merge with other labels; they freeze them.
                    changed |= varying(self.labels.compress(label_array)) != varying(compressed)

    # -- helpers ---------------------------------------------------------------------------------------

    @staticmethod
    def _spread(label_array: Array, axis_names: Sequence[object], place: dict[object, int]) -> Array:
        shape = [1] * len(place)
        order = sorted(range(len(axis_names)), key=lambda i: place[axis_names[i]])
        for i in order:
            shape[place[axis_names[i]]] = label_array.shape[i]
        return np.transpose(label_array, order).reshape(shape)

    def _fix(self, label_array: Array, dims: set[int], origin: str) -> Array:
        if varying(label_array) - dims:
            return self.labels.tie(label_array, dims, self.where)
        self.labels.freeze(label_array, f"meets {origin} at {self.where}")
        return np.full([1] * label_array.ndim, FIXED)

    def _merge_overlapping(self, pool: list[Array]) -> list[Array]:
        merged: list[Array] = []
        for label_array in pool:
            while True:
                partner = next((m for m in merged if varying(m) & varying(label_array)), None)
                if partner is None:
                    break
                merged = [m for m in merged if m is not partner]
                label_array = self._join(label_array, partner)
                if not varying(label_array):
                    break
            if varying(label_array):
                merged.append(label_array)
        return merged

    def _join(self, a: Array, b: Array) -> Array:
        shared = varying(a) & varying(b)
        for small, large in ((a, b), (b, a)):
            extra = varying(large) - varying(small)
            # A small vector shared by all blocks of a larger structure (one scale for every head, say): blocks can
            # be dropped whole, so the vector stays.
            if varying(small) == shared and extra and min(extra) < min(shared):
                self.labels.freeze(small, f"shared by the blocks of a larger dimension at {self.where}")
                return large
        a = self.labels.tie(a, varying(a) - shared, self.where)
        b = self.labels.tie(b, varying(b) - shared, self.where)
        self.labels.union(a, b, self.where)
        return a
