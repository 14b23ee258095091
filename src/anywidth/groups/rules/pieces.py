"""Operators that take pieces of a dimension, or put pieces together."""

from __future__ import annotations

import math

import numpy as np

from anywidth.groups.flow import Flow, Number, Value
from anywidth.groups.labels import FIXED, Array, first_along, varying
from anywidth.groups.rules.registry import Call, Result, rule

__all__: list[str] = []


@rule(
    "aten.cat",
    "aten.concat",
    "aten.concatenate",
    "aten.hstack",
    "aten.vstack",
    "aten.row_stack",
    "aten.dstack",
    "aten.column_stack",
)
def concatenate(flow: Flow, call: Call) -> Result:
    """Concatenation: the labels stand one after the other; the other dimensions must agree."""
    values = [v for v in call.args[0] if math.prod(v.shape)]
    dim = {"hstack": min(1, len(call.shape) - 1), "dstack": 2, "column_stack": 1}.get(flow.operator.split(".")[1])
    dim = call.argument(1, "dim", 0) % len(call.shape) if dim is None else dim
    if any(len(value.shape) != len(call.shape) for value in values):  # vectors that become rows
        for value in values:
            flow.freeze(value, f"stacked as rows at {flow.where}")
        return None
    rest = [_without(flow, value, dim) for value in values]
    facets = flow.elementwise(rest, tuple(1 if d == dim else s for d, s in enumerate(call.shape)))
    joint = [[facet for facet in flow.facets(value) if facet.shape[dim] > 1] for value in values]
    shapes = {tuple(np.delete(facet.shape, dim)) for found in joint for facet in found}
    if all(len(found) == 1 for found in joint) and len(shapes) == 1:  # such as both halves of every head
        return Value(call.shape, [*facets, np.concatenate([found[0] for found in joint], dim)])
    vectors = [flow.along(value, dim) for value in values]
    if any(vector is not None for vector in vectors):
        parts = [
            np.full(value.shape[dim], FIXED) if vector is None else vector
            for value, vector in zip(values, vectors, strict=True)
        ]
        shape = [1] * len(call.shape)
        shape[dim] = call.shape[dim]
        facets.append(np.concatenate(parts).reshape(shape))
    return Value(call.shape, facets)


def _without(flow: Flow, value: Value, dim: int) -> Value:
    """A value's facets that do not depend on one dimension, whose size becomes one."""
    facets = [facet for facet in flow.facets(value) if facet.shape[dim] == 1]
    return Value(tuple(1 if d == dim else s for d, s in enumerate(value.shape)), facets, origin=value.origin)


@rule("aten.stack")
def stack(flow: Flow, call: Call) -> Result:
    """Stacking along a new dimension: all operands keep the same positions."""
    values, ndim = call.args[0], len(call.shape)
    dim = call.argument(1, "dim", 0) % ndim
    facets = flow.elementwise(values, values[0].shape)
    return Value(call.shape, [np.expand_dims(f, dim) for f in facets])


@rule(
    "aten.chunk", "aten.split", "aten.split_with_sizes", "aten.tensor_split", "aten.unsafe_chunk", "aten.unsafe_split",
    "aten.unsafe_split_with_sizes", "aten.hsplit", "aten.vsplit", "aten.dsplit",
)  # fmt: skip
def split(flow: Flow, call: Call) -> Result:
    """Pieces of one dimension. Equal pieces stay equal: position j of each is kept or dropped together."""
    x = call.args[0]
    dim = {"hsplit": min(1, len(x.shape) - 1), "vsplit": 0, "dsplit": 2}.get(flow.operator.split(".")[1])
    dim = call.argument(2, "dim", 0) % len(x.shape) if dim is None else dim
    sizes = [shape[dim] for shape in call.shapes]
    bounds = np.cumsum(sizes)[:-1].tolist()
    pieces = [Value(shape, origin=x.origin) for shape in call.shapes]
    for facet in flow.facets(x):
        parts = np.split(facet, bounds, axis=dim) if facet.shape[dim] > 1 else [facet] * len(pieces)
        if facet.shape[dim] > 1 and len(set(sizes)) == 1:
            for part in parts[1:]:
                flow.labels.union(parts[0], part, flow.where)
        elif facet.shape[dim] > 1:
            flow.cuts += parts
        for piece, part in zip(pieces, parts, strict=True):
            piece.facets.append(part)
    if "chunk" not in flow.operator:
        number = len(flow.numbers)
        for piece in pieces:
            facet = first_along(piece.facets, dim)
            flow.numbers.append(Number(flow.module, piece.shape[dim], facet, dim, call=number))
        # The last size is often the rest of all of them.
        flow.numbers.append(Number(flow.module, x.shape[dim], first_along(flow.facets(x), dim), dim))
    return pieces


@rule("aten.unbind")
def unbind(flow: Flow, call: Call) -> Result:
    """All slices of one dimension, which therefore cannot be narrowed by itself."""
    x = call.args[0]
    dim = call.argument(1, "dim", 0) % len(x.shape)
    return [_select(flow, x, dim, shape) for shape in call.shapes]


@rule("aten.select")
def select(flow: Flow, call: Call) -> Result:
    """One position of one dimension."""
    return _select(flow, call.args[0], call.args[1] % len(call.args[0].shape), call.shape)


def _select(flow: Flow, x: Value, dim: int, shape: tuple[int, ...]) -> Value:
    facets = [_by_number(flow, facet, dim) if facet.shape[dim] > 1 else facet for facet in flow.facets(x)]
    left = [np.take(facet, 0, axis=dim) for facet in facets if facet is not None]
    follows = {d - (d > dim): vector for d, vector in x.follows.items() if d != dim}
    return Value(shape, left, origin=x.origin, follows=follows)


def _by_number(flow: Flow, facet: Array, dim: int) -> Array | None:
    """What is left of labels where positions of one dimension are picked by number, so that it is kept whole."""
    if varying(facet) == {dim}:
        flow.labels.freeze(facet, f"picked by its number at {flow.where}")
        return None
    return flow.labels.tie(facet, {dim}, flow.where)


@rule("aten.slice", "aten.narrow")
def slice_(flow: Flow, call: Call) -> Result:
    """A range of positions of one dimension."""
    x, ndim = call.args[0], len(call.args[0].shape)
    dim = call.argument(1, "dim", 0) % ndim
    size = x.shape[dim]
    if "narrow" in flow.operator:
        start = call.args[2] % size if size else 0
        piece = slice(start, start + call.args[3])
    else:
        start, stop = call.argument(2, "start"), call.argument(3, "end")
        piece = slice(start, None if stop is None else min(stop, size), call.argument(4, "step", 1))
    facets = []
    for facet in flow.facets(x):
        if facet.shape[dim] > 1:
            facet = _cut(flow, facet, dim, piece)
        if facet is not None:
            facets.append(facet)
    follows = {d: vector for d, vector in x.follows.items() if d != dim or call.shape[dim] == size}
    return Value(call.shape, facets, origin=x.origin, follows=follows)


def _cut(flow: Flow, facet: Array, dim: int, piece: slice) -> Array | None:
    """The labels of a range of positions; what stands before the range is a group of its own, for it counts."""
    size = facet.shape[dim]
    chosen = range(size)[piece]
    if chosen.step > 1 and chosen.start < chosen.step and size == len(chosen) * chosen.step:
        # Right for any number of whole runs of `step` positions.
        runs = (*facet.shape[:dim], len(chosen), chosen.step, *facet.shape[dim + 1 :])
        flow.labels.tie(facet.reshape(runs), {dim + 1}, flow.where)
        return np.take(facet, chosen, axis=dim)
    if len(chosen) < 2 or chosen.step > 1:
        return _by_number(flow, facet, dim)
    for bound in (chosen.start, chosen.stop):
        if 1 < bound < size:
            flow.numbers.append(Number(flow.module, bound, np.take(facet, range(bound), axis=dim), dim))
    part = np.take(facet, chosen, axis=dim)
    if len(chosen) < size:
        flow.cuts += [part, np.take(facet, range(chosen.start), axis=dim)]
    return part


@rule("aten.slice_scatter", "aten.select_scatter")
def scatter_piece(flow: Flow, call: Call) -> Result:
    """A copy of a value in which a range of positions, or one position, comes from another value."""
    x, source = call.args[:2]
    one = "select" in flow.operator
    dim = call.argument(2, "dim", 0) % len(x.shape)
    if one:
        facets = [np.expand_dims(f, dim) for f in flow.facets(source)]
        shape = (*source.shape[:dim], 1, *source.shape[dim:])
        source = Value(shape, facets, origin=source.origin, loose=source.loose)
    if source.shape == x.shape:
        return Value(call.shape, flow.elementwise([x, source], call.shape))
    for value in (x, source):
        flow.freeze(value, f"written to by number at {flow.where}", dims=[dim])
    facets = flow.elementwise([_without(flow, x, dim), _without(flow, source, dim)], _without(flow, x, dim).shape)
    kept = [f for f in flow.facets(x) if f.shape[dim] > 1]
    return Value(call.shape, [*facets, *kept])


@rule("aten.constant_pad_nd", "aten.pad")
def pad(flow: Flow, call: Call) -> Result:
    """Padding; padded channels are constant and stay at every width."""
    x, amounts = call.args[0], list(call.args[1])
    ndim, copied = len(x.shape), call.argument(2, "mode", "constant") != "constant" and "constant" not in flow.operator
    before, after = [0] * ndim, [0] * ndim
    for i in range(len(amounts) // 2):
        before[ndim - 1 - i], after[ndim - 1 - i] = amounts[2 * i], amounts[2 * i + 1]
    facets = []
    for facet in flow.facets(x):
        touched = {d for d in varying(facet) if before[d] or after[d]}
        cut = any(before[d] < 0 or after[d] < 0 for d in touched)
        if touched and (cut or copied or len(varying(facet)) > 1):
            flow.labels.freeze(facet, f"padded at {flow.where}")
            continue
        widths = [(before[d], after[d]) if d in touched else (0, 0) for d in range(ndim)]
        facets.append(np.pad(facet, widths, constant_values=FIXED))
    return Value(call.shape, facets, origin=x.origin)
