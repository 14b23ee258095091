"""Operators that take pieces of a dimension, or put pieces together."""

from __future__ import annotations

import math

import numpy as np

from anywidth.groups.counts import SizeUse
from anywidth.groups.flow import Flow
from anywidth.groups.labels import FIXED, Array, first_along, varying
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Value

__all__: list[str] = []


@operator(
    "aten.cat", "aten.concat", "aten.concatenate", "aten.hstack", "aten.vstack", "aten.row_stack", "aten.dstack",
    "aten.column_stack", adds_up=False,
)  # fmt: skip
def concatenate(flow: Flow, call: Call) -> Result:
    """Concatenation: labels are concatenated; the other dimensions must agree."""
    values = [v for v in call.args[0] if math.prod(v.shape)]
    dim = {"hstack": min(1, len(call.shape) - 1), "dstack": 2, "column_stack": 1}.get(flow.operator.split(".")[1])
    dim = call.argument(1, "dim", 0) % len(call.shape) if dim is None else dim
    if any(len(value.shape) != len(call.shape) for value in values):  # vectors that become rows
        for value in values:
            flow.freeze(value, f"stacked as rows at {flow.where}")
        return None
    rest = [_without(flow, value, dim) for value in values]
    label_arrays = flow.elementwise(rest, tuple(1 if d == dim else s for d, s in enumerate(call.shape)))
    joint = [
        [label_array for label_array in flow.label_arrays(value) if label_array.shape[dim] > 1] for value in values
    ]
    shapes = {tuple(np.delete(label_array.shape, dim)) for found in joint for label_array in found}
    if all(len(found) == 1 for found in joint) and len(shapes) == 1:  # such as both halves of every head
        return Value(call.shape, [*label_arrays, np.concatenate([found[0] for found in joint], dim)])
    vectors = [flow.along(value, dim) for value in values]
    if any(vector is not None for vector in vectors):
        parts = [
            np.full(value.shape[dim], FIXED) if vector is None else vector
            for value, vector in zip(values, vectors, strict=True)
        ]
        shape = [1] * len(call.shape)
        shape[dim] = call.shape[dim]
        label_arrays.append(np.concatenate(parts).reshape(shape))
    return Value(call.shape, label_arrays)


def _without(flow: Flow, value: Value, dim: int) -> Value:
    """A value's label arrays that do not depend on one dimension, whose size becomes one."""
    label_arrays = [label_array for label_array in flow.label_arrays(value) if label_array.shape[dim] == 1]
    return Value(tuple(1 if d == dim else s for d, s in enumerate(value.shape)), label_arrays, origin=value.origin)


@operator("aten.stack", adds_up=False)
def stack(flow: Flow, call: Call) -> Result:
    """Stacking along a new dimension: all operands keep the same positions."""
    values, ndim = call.args[0], len(call.shape)
    dim = call.argument(1, "dim", 0) % ndim
    label_arrays = flow.elementwise(values, values[0].shape)
    return Value(call.shape, [np.expand_dims(f, dim) for f in label_arrays])


@operator(
    "aten.chunk", "aten.split", "aten.split_with_sizes", "aten.tensor_split", "aten.unsafe_chunk",
    "aten.unsafe_split", "aten.unsafe_split_with_sizes", "aten.hsplit", "aten.vsplit", "aten.dsplit", adds_up=False,
)  # fmt: skip
def split(flow: Flow, call: Call) -> Result:
    """Split one dimension. Equal pieces stay equal: position j of each is kept or dropped together."""
    x = call.args[0]
    dim = {"hsplit": min(1, len(x.shape) - 1), "vsplit": 0, "dsplit": 2}.get(flow.operator.split(".")[1])
    dim = call.argument(2, "dim", 0) % len(x.shape) if dim is None else dim
    sizes = [shape[dim] for shape in call.shapes]
    bounds = np.cumsum(sizes)[:-1].tolist()
    pieces = [Value(shape, origin=x.origin) for shape in call.shapes]
    for label_array in flow.label_arrays(x):
        parts = np.split(label_array, bounds, axis=dim) if label_array.shape[dim] > 1 else [label_array] * len(pieces)
        if label_array.shape[dim] > 1 and len(set(sizes)) == 1:
            for part in parts[1:]:
                flow.labels.union(parts[0], part, flow.where)
        elif label_array.shape[dim] > 1:
            flow.split_points += parts
        for piece, part in zip(pieces, parts, strict=True):
            piece.label_arrays.append(part)
    if "chunk" not in flow.operator:
        number = len(flow.size_uses)
        for piece in pieces:
            label_array = first_along(piece.label_arrays, dim)
            flow.size_uses.append(SizeUse(flow.module, piece.shape[dim], label_array, dim, call=number))
        # The last size is often the remainder.
        flow.size_uses.append(SizeUse(flow.module, x.shape[dim], first_along(flow.label_arrays(x), dim), dim))
    return pieces


@operator("aten.unbind", adds_up=False)
def unbind(flow: Flow, call: Call) -> Result:
    """All slices of one dimension, which therefore cannot be narrowed by itself."""
    x = call.args[0]
    dim = call.argument(1, "dim", 0) % len(x.shape)
    return [_select(flow, x, dim, shape) for shape in call.shapes]


@operator("aten.select", adds_up=False, shape_follows=True, view=True)
def select(flow: Flow, call: Call) -> Result:
    """One position of one dimension."""
    return _select(flow, call.args[0], call.args[1] % len(call.args[0].shape), call.shape)


def _select(flow: Flow, x: Value, dim: int, shape: tuple[int, ...]) -> Value:
    label_arrays = [
        _by_number(flow, label_array, dim) if label_array.shape[dim] > 1 else label_array
        for label_array in flow.label_arrays(x)
    ]
    left = [np.take(label_array, 0, axis=dim) for label_array in label_arrays if label_array is not None]
    follows = {d - (d > dim): vector for d, vector in x.follows.items() if d != dim}
    return Value(shape, left, origin=x.origin, follows=follows)


def _by_number(flow: Flow, label_array: Array, dim: int) -> Array | None:
    """Labels after positions of one dimension are picked by number, which keeps that dimension whole."""
    if varying(label_array) == {dim}:
        flow.labels.freeze(label_array, f"picked by its number at {flow.where}")
        return None
    return flow.labels.tie(label_array, {dim}, flow.where)


@operator("aten.slice", adds_up=False, shape_follows=True, view=True)
@operator("aten.narrow", adds_up=False, view=True)
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
    label_arrays = []
    for label_array in flow.label_arrays(x):
        if label_array.shape[dim] > 1:
            label_array = _cut(flow, label_array, dim, piece)
        if label_array is not None:
            label_arrays.append(label_array)
    follows = {d: vector for d, vector in x.follows.items() if d != dim or call.shape[dim] == size}
    return Value(call.shape, label_arrays, origin=x.origin, follows=follows)


def _cut(flow: Flow, label_array: Array, dim: int, piece: slice) -> Array | None:
    """The labels of a range of positions; positions before the range form a separate group, because it is counted."""
    size = label_array.shape[dim]
    chosen = range(size)[piece]
    if chosen.step > 1 and chosen.start < chosen.step and size == len(chosen) * chosen.step:
        # Right for any number of whole runs of `step` positions.
        runs = (*label_array.shape[:dim], len(chosen), chosen.step, *label_array.shape[dim + 1 :])
        flow.labels.tie(label_array.reshape(runs), {dim + 1}, flow.where)
        return np.take(label_array, chosen, axis=dim)
    if len(chosen) < 2 or chosen.step > 1:
        return _by_number(flow, label_array, dim)
    for bound in (chosen.start, chosen.stop):
        if 1 < bound < size:
            flow.size_uses.append(SizeUse(flow.module, bound, np.take(label_array, range(bound), axis=dim), dim))
    part = np.take(label_array, chosen, axis=dim)
    if len(chosen) < size:
        flow.split_points += [part, np.take(label_array, range(chosen.start), axis=dim)]
    return part


@operator("aten.slice_scatter", "aten.select_scatter", adds_up=False)
def scatter_piece(flow: Flow, call: Call) -> Result:
    """A copy of a value with a range of positions, or one position, from another value."""
    x, source = call.args[:2]
    one = "select" in flow.operator
    dim = call.argument(2, "dim", 0) % len(x.shape)
    if one:
        label_arrays = [np.expand_dims(f, dim) for f in flow.label_arrays(source)]
        shape = (*source.shape[:dim], 1, *source.shape[dim:])
        source = Value(shape, label_arrays, origin=source.origin, shape_follows=source.shape_follows)
    if source.shape == x.shape:
        return Value(call.shape, flow.elementwise([x, source], call.shape))
    for value in (x, source):
        flow.freeze(value, f"written to by number at {flow.where}", dims=[dim])
    label_arrays = flow.elementwise([_without(flow, x, dim), _without(flow, source, dim)], _without(flow, x, dim).shape)
    kept = [f for f in flow.label_arrays(x) if f.shape[dim] > 1]
    return Value(call.shape, [*label_arrays, *kept])


@operator("aten.constant_pad_nd", "aten.pad", adds_up=False)
def pad(flow: Flow, call: Call) -> Result:
    """Padding; padded channels are constant and stay at every width."""
    x, amounts = call.args[0], list(call.args[1])
    ndim, copied = len(x.shape), call.argument(2, "mode", "constant") != "constant" and "constant" not in flow.operator
    before, after = [0] * ndim, [0] * ndim
    for i in range(len(amounts) // 2):
        before[ndim - 1 - i], after[ndim - 1 - i] = amounts[2 * i], amounts[2 * i + 1]
    label_arrays = []
    for label_array in flow.label_arrays(x):
        touched = {d for d in varying(label_array) if before[d] or after[d]}
        cut = any(before[d] < 0 or after[d] < 0 for d in touched)
        if touched and (cut or copied or len(varying(label_array)) > 1):
            flow.labels.freeze(label_array, f"padded at {flow.where}")
            continue
        widths = [(before[d], after[d]) if d in touched else (0, 0) for d in range(ndim)]
        label_arrays.append(np.pad(label_array, widths, constant_values=FIXED))
    return Value(call.shape, label_arrays, origin=x.origin)
