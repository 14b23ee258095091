"""Values that carry channel labels, and the primitives from which every operator's rule is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from anywidth.groups.labels import FIXED, Array, Labels, first_along, varying

__all__ = ["Cost", "Flow", "Operand", "Value", "multiplied"]


@dataclass
class Value:
    """A tensor of the graph: its shape and the label arrays (facets) that broadcast to it.

    `tensor` names the parameter or buffer that the value is, if it is one; `made_from` is the largest parameter that
    a value is computed from, if from parameters alone (a standardised weight, say). `origin` says in words where an
    unlabelled value comes from, for frozen reasons. A `loose` value is made by the forward itself and may follow
    whatever it meets; whether it does is left to the proof. So may dimensions of a value that was expanded: `follows`
    holds labels for them that say what a number given as their size counts, once they met something.
    """

    shape: tuple[int, ...]
    facets: list[Array] = field(default_factory=list)
    tensor: str | None = None
    origin: str = "a tensor of fixed size"
    loose: bool = False
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
    """A value together with one letter (any hashable name) per dimension."""

    value: Value
    letters: tuple[object, ...]


def multiplied(operands: Sequence[Operand], out: Iterable[object]) -> tuple[str | None, tuple[int, ...]]:
    """The first weight among operands, and its dimensions along which a product makes channels of the result."""
    weight = next((operand for operand in operands if operand.value.weight), None)
    if weight is None:
        return None, ()
    kept = set(out)
    return weight.value.weight, tuple(dim for dim, letter in enumerate(weight.letters) if letter in kept)


@dataclass(frozen=True)
class Cost:
    """One counted operator: MACs at full width, the label arrays that scale them, and the weight that it multiplies.

    Products that sum nothing make channels too, and have 0 MACs.

    `out_dims` are the dimensions of the weight along which the operator makes new channels, if it makes any.
    `inputs` are the positions of the network's inputs that the operator computes from, and `sizes` those that the
    forward repeats something to on the way: what depends on neither the samples nor their number is computed once.
    """

    module: str
    operator: str
    kind: str
    macs: int
    facets: tuple[Array, ...]
    weight: str | None = None
    out_dims: tuple[int, ...] = ()
    inputs: frozenset[int] = frozenset()
    sizes: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Number:
    """An integer that a forward gave to an operator, and the labels of the dimension that it counts (if any).

    `attribute` names the attribute of the module that it is for certain; otherwise that is found by its value.
    Numbers given in one list have the same `call`.
    """

    module: str
    value: int
    facet: Array | None
    dim: int = 0
    attribute: str | None = None
    call: int = -1


@dataclass
class Flow:
    """State of one propagation: the labels, the node at hand, what was counted and what is still to be tied.

    `cuts` are parts of dimensions at whose ends a slice or a split stands: channels on both sides of one do not
    belong to one group, or dropping some would move those of the other side.
    """

    labels: Labels
    operator: str = ""
    module: str = ""
    costs: list[Cost] = field(default_factory=list)
    uncounted: dict[str, int] = field(default_factory=dict)
    splits: list[tuple[Array, frozenset[int], str]] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)
    cuts: list[Array] = field(default_factory=list)
    inputs: frozenset[int] = frozenset()
    repeats: frozenset[int] = frozenset()

    @property
    def where(self) -> str:
        """The operator and module at hand, in words."""
        return f"{self.operator} in {self.module or 'the root module'}"

    # -- single values ---------------------------------------------------------------------------------

    def facets(self, value: Value) -> list[Array]:
        """The value's facets in canonical form, without those that depend on nothing."""
        compressed = (self.labels.compress(facet) for facet in value.facets)
        return [facet for facet in compressed if varying(facet)]

    def along(self, value: Value, dim: int) -> Array | None:
        """Labels of one dimension as a vector, or None; facets that also depend on other dimensions are tied."""
        vector: Array | None = None
        dim %= len(value.shape)
        for facet in self.facets(value):
            if dim not in varying(facet):
                continue
            flat = self.labels.tie(facet, varying(facet) - {dim}, self.where).reshape(-1)
            if vector is not None:
                self.labels.union(vector, flat, self.where)
            vector = flat
        return vector

    def freeze(self, value: Value, reason: str | None = None, dims: Iterable[int] | None = None) -> None:
        """Freeze all facets of a value, or keep some dimensions whole: facets that depend on others too are tied."""
        wanted = None if dims is None else set(dims)
        for facet in self.facets(value):
            if wanted is None or varying(facet) <= wanted:
                self.labels.freeze(facet, reason or f"no rule for {self.where}")
            else:
                self.labels.tie(facet, wanted, self.where)
        for dim, vector in value.follows.items():
            if wanted is None or dim in wanted:
                self.labels.freeze(vector, reason or f"no rule for {self.where}")

    def meet(self, a: Array | None, b: Array | None, origin: str) -> None:
        """The same channels on both sides, or a frozen side where the other (of this origin) has no labels."""
        if a is not None and b is not None:
            self.labels.union(a, b, self.where)
        elif a is not None or b is not None:
            self.labels.freeze(a if a is not None else b, f"meets {origin} at {self.where}")  # type: ignore[arg-type]

    def reduce(self, facet: Array, dims: set[int]) -> Array:
        """A facet after a reduction over `dims`: independent of them (tied if it depends on others as well)."""
        over = varying(facet) & dims
        if not over:
            return facet
        if varying(facet) - dims:
            return self.labels.tie(facet, over, self.where)
        return np.ones([1] * facet.ndim, np.int64)

    def number(self, value: int, vector: Array | None, attribute: str | None = None) -> None:
        """Remember an integer argument of the module at hand and the labels that it counts."""
        self.numbers.append(Number(self.module, value, vector, 0, attribute))

    def sizes(self, value: Value, sizes: Sequence[object], first: int = 0) -> None:
        """Remember sizes that were given as numbers for the dimensions of a value, from dimension `first` on."""
        call = len(self.numbers)
        for dim, size in enumerate(sizes, first):
            if isinstance(size, int) and size > 1:
                facet = first_along(value.facets, dim)
                place = dim
                if facet is None and dim in value.follows:
                    facet, place = value.follows[dim], 0
                self.numbers.append(Number(self.module, size, facet, place, call=call))

    # -- several values --------------------------------------------------------------------------------

    def merge(self, operands: Sequence[Operand], out: Sequence[object]) -> tuple[list[Array], list[Array]]:
        """Facets of an element-wise operator or contraction, einsum-like: of the result, and of what is summed over.

        Operands that share a letter must keep the same positions of it. A letter that some operand has without
        labels cannot be narrowed; a letter missing from `out` is summed over.
        """
        letters = tuple(dict.fromkeys(letter for operand in operands for letter in operand.letters))
        place = {letter: i for i, letter in enumerate(letters)}
        kept = set(out)
        contracted = {place[letter] for letter in letters if letter not in kept}
        spread: list[tuple[set[int], list[Array], Value]] = []
        for operand in operands:
            full = {
                place[letter]
                for dim, (letter, size) in enumerate(zip(operand.letters, operand.value.shape, strict=True))
                if size > 1 and not operand.value.loose and dim not in operand.value.follows
            }
            facets = [self._spread(f, operand.letters, place) for f in self.facets(operand.value)]
            spread.append((full, facets, operand.value))
        self._follow(operands, [facets for _, facets, _ in spread], place)
        pool: list[Array] = []
        for number, (_, facets, _) in enumerate(spread):
            for facet in facets:
                if varying(facet) - contracted:
                    facet = self.labels.tie(facet, varying(facet) & contracted, self.where)
                for other, (full, partners, value) in enumerate(spread):
                    if other == number:
                        continue
                    labelled = set().union(*(varying(p) for p in partners)) if partners else set()
                    fixed = (varying(facet) & full) - labelled
                    if fixed:
                        facet = self._fix(facet, fixed, value.origin)
                if varying(facet):
                    pool.append(facet)
        merged = self._merge_overlapping(pool)
        targets = {letter: i for i, letter in enumerate(out)}
        result = []
        for facet in merged:
            if varying(facet) - contracted:
                shape = [1] * len(targets)
                for letter, i in targets.items():
                    shape[i] = facet.shape[place[letter]]
                order = [place[letter] for letter in targets]
                rest = [i for i in range(facet.ndim) if i not in order]
                result.append(np.transpose(facet, order + rest).reshape(shape))
        return result, [f for f in merged if not (varying(f) - contracted)]

    def _follow(self, operands: Sequence[Operand], facets: Sequence[list[Array]], place: dict[object, int]) -> None:
        """Unite the labels of expanded dimensions with those that they meet."""
        for number, operand in enumerate(operands):
            for dim, vector in operand.value.follows.items():
                letter = operand.letters[dim]
                for other, partner in enumerate(operands):
                    if other == number:
                        continue
                    for facet in facets[other]:
                        if varying(facet) == {place[letter]}:
                            self.labels.union(facet.reshape(-1), vector, self.where)
                    for position, met in partner.value.follows.items():
                        if partner.letters[position] == letter and met.size == vector.size:
                            self.labels.union(met, vector, self.where)

    def contract(self, operands: Sequence[Operand], out: Sequence[object], kind: str) -> list[Array]:
        """`merge` of a contraction, counted as an operator of this kind."""
        result, summed = self.merge(operands, out)
        sizes: dict[object, int] = {}
        for operand in operands:
            for letter, size in zip(operand.letters, operand.value.shape, strict=True):
                sizes[letter] = max(size, sizes.get(letter, 1))
        self.record(kind, math.prod(sizes.values()), [*result, *summed], *multiplied(operands, out))
        return result

    def record(
        self,
        kind: str,
        macs: int,
        facets: Iterable[Array],
        weight: str | None = None,
        out_dims: tuple[int, ...] = (),
    ) -> None:
        """Count an operator's MACs at full width; they shrink with every facet."""
        scales = tuple(facet.reshape(-1) for facet in facets)
        self.costs.append(
            Cost(self.module, self.operator, kind, macs, scales, weight, out_dims, self.inputs, self.repeats)
        )

    def elementwise(self, values: Sequence[Value], shape: tuple[int, ...]) -> list[Array]:
        """Facets of an operator that works on each element of broadcast operands alone."""
        operands = [
            Operand(value, tuple(range(len(shape) - len(value.shape), len(shape))))
            for value in values
            if value.facets or any(size > 1 for size in value.shape)
        ]
        return self.merge(operands, tuple(range(len(shape))))[0]

    def carried(self, values: Sequence[Value], shape: tuple[int, ...]) -> dict[int, Array]:
        """Which dimensions of broadcast operands' result still may follow: those that no operand has for certain."""
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
        """Tie reshaped channels until what is kept of every split dimension is a full block.

        `view(batch, a, b)` of a*b channels stays possible at run time only if one of a and b shrinks. Where
        the rest of the graph has not decided which, the innermost does.
        """
        changed = True
        while changed:
            changed = False
            for facet, dims, where in self.splits:
                compressed = self.labels.compress(facet)
                loose = sorted(varying(compressed) & dims)
                if len(loose) > 1:
                    self.labels.tie(compressed, set(loose[:-1]), where)
                    # Fixed positions never merge with others, which they freeze.
                    changed |= varying(self.labels.compress(facet)) != varying(compressed)

    # -- helpers ---------------------------------------------------------------------------------------

    @staticmethod
    def _spread(facet: Array, letters: Sequence[object], place: dict[object, int]) -> Array:
        shape = [1] * len(place)
        order = sorted(range(len(letters)), key=lambda i: place[letters[i]])
        for i in order:
            shape[place[letters[i]]] = facet.shape[i]
        return np.transpose(facet, order).reshape(shape)

    def _fix(self, facet: Array, dims: set[int], origin: str) -> Array:
        if varying(facet) - dims:
            return self.labels.tie(facet, dims, self.where)
        self.labels.freeze(facet, f"meets {origin} at {self.where}")
        return np.full([1] * facet.ndim, FIXED)

    def _merge_overlapping(self, pool: list[Array]) -> list[Array]:
        merged: list[Array] = []
        for facet in pool:
            while True:
                partner = next((m for m in merged if varying(m) & varying(facet)), None)
                if partner is None:
                    break
                merged = [m for m in merged if m is not partner]
                facet = self._join(facet, partner)
                if not varying(facet):
                    break
            if varying(facet):
                merged.append(facet)
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
