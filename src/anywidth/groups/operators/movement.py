"""Operators that rearrange data without computing: they are applied to the labels."""

from __future__ import annotations

import math
import operator as op

import numpy as np

from anywidth.groups.flow import Flow
from anywidth.groups.labels import Array, varying
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Value

__all__ = ["reshape_label_array"]


def _blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of dimensions of `old` and `new` with equal products; a reshape acts inside each."""
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = ([i] if i < len(old) else []), ([j] if j < len(new) else [])
        a = old[i] if left else 1
        b = new[j] if right else 1
        i, j = i + len(left), j + len(right)
        while a != b:
            if a < b:
                a, i = a * old[i], (left.append(i), i + 1)[1]
            else:
                b, j = b * new[j], (right.append(j), j + 1)[1]
        blocks.append((left, right))
    return blocks


def reshape_label_array(flow: Flow, label_array: Array, old: tuple[int, ...], new: tuple[int, ...]) -> Array:
    """A label array of shape (1 or old sizes) after a reshape of its value from `old` to `new`."""
    shape = [1] * len(new)
    splits: list[set[int]] = []
    current = label_array
    target: list[int] = []
    for left, right in _blocks(old, new):
        if not varying(label_array) & set(left):
            target += [1] * len(right)
            continue
        expand = list(current.shape)
        for dim in left:
            expand[dim] = old[dim]
        current = np.broadcast_to(current, expand)
        target += [new[dim] for dim in right]
        splits.append(set(right))
    result = current.reshape(target) if target else current.reshape(shape)
    result = flow.labels.compress(result)
    for dims in splits:
        if len(varying(result) & dims) > 1:
            flow.splits.append((result, frozenset(dims), flow.where))
    return result


@operator("aten.view", adds_up=False, free=True, shape_follows=True, view=True, per_channel=True)
@operator("aten.reshape", "aten.flatten", "aten.unflatten", adds_up=False, shape_follows=True)
@operator(
    "aten._unsafe_view", "aten.squeeze_", "aten.unsqueeze_", "aten._reshape_alias", "aten.view_as", "aten.reshape_as",
    "aten.ravel", "aten.atleast_1d", "aten.atleast_2d", "aten.atleast_3d", "aten.view_copy", adds_up=False,
)  # fmt: skip
@operator("aten.squeeze", "aten.unsqueeze", adds_up=False, shape_follows=True, view=True)
def reshape(flow: Flow, call: Call) -> Result:
    """Operators that keep the order of the elements and change the shape."""
    x = call.args[0]
    if math.prod(x.shape) == 0:
        return None
    label_arrays = [
        reshape_label_array(flow, label_array, x.shape, call.shape) for label_array in _flattened(flow, x, call.shape)
    ]
    result = Value(call.shape, label_arrays, origin=x.origin)
    if x.follows:
        for left, right in _blocks(x.shape, call.shape):
            old, new = [d for d in left if x.shape[d] > 1], [d for d in right if call.shape[d] > 1]
            if len(old) == len(new) == 1 and old[0] in x.follows:
                result.follows[new[0]] = x.follows[old[0]]
    sizes = call.args[-1] if isinstance(call.args[-1], (list, tuple)) else []
    first = call.args[1] % len(x.shape) if "unflatten" in flow.operator else 0
    flow.sizes(result, sizes, first)
    return result


def _flattened(flow: Flow, x: Value, new: tuple[int, ...]) -> list[Array]:
    """The label arrays of a value before a reshape; of those that enter one dimension, only one stays elastic.

    If (heads, channels) with separate labels are flattened, either heads or channels of every head could be dropped.
    The outermost dimension is chosen, unless it is frozen.
    """
    label_arrays = flow.label_arrays(x)
    for left, right in _blocks(x.shape, new) if len(label_arrays) > 1 else []:
        inside = [f for f in label_arrays if varying(f) & set(left)]
        if len(inside) < 2 or sum(new[d] > 1 for d in right) > 1:
            continue
        inside.sort(key=lambda f: (flow.labels.is_frozen(f), min(varying(f))))
        for label_array in inside[1:]:
            flow.labels.freeze(label_array, f"flattened together with another dimension at {flow.where}")
            label_arrays = [f for f in label_arrays if f is not label_array]
    return label_arrays


@operator("aten.permute", "aten.transpose", adds_up=False, shape_follows=True, view=True, per_channel=True)
@operator("aten.t", adds_up=False, shape_follows=True)
@operator(
    "aten.swapaxes", "aten.swapdims", "aten.movedim", "aten.moveaxis", "aten.mT", "aten.mH", "aten.adjoint",
    "aten.numpy_T", "aten.matrix_H", adds_up=False,
)  # fmt: skip
def permute(flow: Flow, call: Call) -> Result:
    """Operators that permute dimensions."""
    x = call.args[0]
    ndim = len(x.shape)
    name = flow.operator
    order = list(range(ndim))
    if "permute" in name:
        order = [d % ndim for d in call.args[1]]
    elif "transpose" in name or "swap" in name:
        a, b = call.args[1] % ndim, call.args[2] % ndim
        order[a], order[b] = b, a
    elif "move" in name:
        source, target = (list(np.atleast_1d(call.args[i]) % ndim) for i in (1, 2))
        order = [d for d in order if d not in source]
        for t, s in sorted(zip(target, source, strict=True)):
            order.insert(t, s)
    elif ndim > 1:
        order[-1], order[-2] = order[-2], order[-1]
    follows = {order.index(dim): vector for dim, vector in x.follows.items()}
    return Value(call.shape, [np.transpose(f, order) for f in flow.label_arrays(x)], origin=x.origin, follows=follows)


@operator("aten.expand", adds_up=False, shape_follows=True)
@operator("aten.expand_as", "aten.broadcast_to", adds_up=False)
def expand(flow: Flow, call: Call) -> Result:
    """Broadcasting: new dimensions follow what they meet; with `expand_as`, they have the labels of the other value."""
    x, other = call.args[0], call.args[1]
    result = _expanded(flow, x, call.shape)
    if isinstance(other, Value):
        for label_array in flow.label_arrays(other):
            if varying(label_array) <= result.follows.keys():
                result.label_arrays.append(label_array)
        for dim in set().union(*map(varying, result.label_arrays)) & result.follows.keys():
            del result.follows[dim]
        result.follows.update({dim: vector for dim, vector in other.follows.items() if dim in result.follows})
    else:
        flow.sizes(result, list(other))
    return result


def _expanded(flow: Flow, x: Value, shape: tuple[int, ...]) -> Value:
    lead = len(shape) - len(x.shape)
    result = Value(shape, [f.reshape([1] * lead + list(f.shape)) for f in flow.label_arrays(x)], origin=x.origin)
    for dim, size in enumerate(shape):
        if dim - lead in x.follows:
            result.follows[dim] = x.follows[dim - lead]
        elif size > 1 and (dim < lead or x.shape[dim - lead] == 1):
            result.follows[dim] = flow.labels.fresh(size)
    return result


@operator("aten.broadcast_tensors", adds_up=False)
def broadcast(flow: Flow, call: Call) -> Result:
    """Several values expanded to one shape."""
    return [_expanded(flow, value, call.shape) for value in call.args[0]]


@operator("aten.repeat", adds_up=False, shape_follows=True)
@operator("aten.tile", adds_up=False)
def repeat(flow: Flow, call: Call) -> Result:
    """Tiling: labels repeat as well. Copies of a single position follow what they meet, as after `expand`."""
    x, times = call.args[0], list(call.args[1])
    times = [1] * (len(x.shape) - len(times)) + times
    lead = len(times) - len(x.shape)
    label_arrays = []
    for label_array in flow.label_arrays(x):
        label_array = label_array.reshape([1] * (len(times) - label_array.ndim) + list(label_array.shape))
        label_arrays.append(np.tile(label_array, [t if d in varying(label_array) else 1 for d, t in enumerate(times)]))
    single = [d for d, t in enumerate(times) if t > 1 and (d < lead or x.shape[d - lead] == 1)]
    follows = {dim + lead: vector for dim, vector in x.follows.items() if times[dim + lead] == 1}
    follows.update({dim: flow.labels.fresh(times[dim]) for dim in single})
    result = Value(call.shape, label_arrays, origin=x.origin, follows=follows)
    flow.sizes(result, [t if d in single else 1 for d, t in enumerate(times)])
    return result


@operator("aten.repeat_interleave.self_int", adds_up=False)
def repeat_interleave(flow: Flow, call: Call) -> Result:
    """Each position several times in a row along one dimension."""
    x, times, dim = call.args[0], call.args[1], call.argument(2, "dim")
    if dim is None:
        flow.freeze(x)
        return None
    dim %= len(x.shape)
    return Value(
        call.shape,
        [np.repeat(f, times, dim) if f.shape[dim] > 1 else f for f in flow.label_arrays(x)],
        origin=x.origin,
    )


@operator("aten.flip", adds_up=False, shape_follows=True)
@operator("aten.fliplr", "aten.flipud", adds_up=False)
def flip(flow: Flow, call: Call) -> Result:
    """Reversed dimensions."""
    x = call.args[0]
    dims = {"fliplr": [1], "flipud": [0]}.get(flow.operator.split(".")[1]) or call.args[1]
    return Value(call.shape, [np.flip(f, tuple(d % f.ndim for d in dims)) for f in flow.label_arrays(x)])


@operator("aten.rot90", adds_up=False)
def quarter_turns(flow: Flow, call: Call) -> Result:
    """Rotations of a plane, whose two dimensions stay whole."""
    x, times, plane = call.args[0], call.argument(1, "k", 1), call.argument(2, "dims", [0, 1])
    a, b = (dim % len(x.shape) for dim in plane)
    flow.freeze(x, f"turned at {flow.where}", dims=(a, b))
    label_arrays = flow.label_arrays(x)
    return Value(
        call.shape, [np.swapaxes(f, a, b) for f in label_arrays] if times % 2 else label_arrays, origin=x.origin
    )


@operator("aten.as_strided", "aten.as_strided_", "aten.as_strided_scatter", "aten.set_", adds_up=False)
@operator("aten.view.dtype", adds_up=False, free=True, shape_follows=True, view=True, per_channel=True)
def by_memory(flow: Flow, call: Call) -> Result:
    """Operators that read memory by numbers, regardless of the dimensions."""
    for value in call.values():
        flow.freeze(value, f"read by its place in memory at {flow.where}")
    return None


@operator("aten.roll", adds_up=False)
def roll(flow: Flow, call: Call) -> Result:
    """Cyclic shifts: a dimension that is shifted cannot be narrowed."""
    x, dims = call.args[0], call.argument(2, "dims", ())
    flow.freeze(x, f"shifted at {flow.where}", dims=[d % len(x.shape) for d in dims] or range(len(x.shape)))
    return Value(call.shape, flow.label_arrays(x))


@operator("aten.pixel_shuffle", adds_up=False)
def pixel_shuffle(flow: Flow, call: Call) -> Result:
    """(batch, channels * r * r, h, w) to (batch, channels, h * r, w * r)."""
    x, square = call.args[0], call.args[1] ** 2
    flow.freeze(x, f"spatial positions at {flow.where}", dims=range(len(x.shape) - 2, len(x.shape)))
    channels = flow.along(x, -3)
    if channels is None:
        return None
    channels = flow.labels.tie(channels.reshape(-1, square), {1}, flow.where)
    shape = [1] * len(call.shape)
    shape[-3] = call.shape[-3]
    return Value(call.shape, [channels.reshape(shape)])


@operator("aten.channel_shuffle", "aten.native_channel_shuffle", adds_up=False)
def channel_shuffle(flow: Flow, call: Call) -> Result:
    """(batch, groups * n, ...) to (batch, n * groups, ...): channel i of every group in turn."""
    x, groups = call.args[0], call.args[1]
    vector = flow.along(x, 1)
    if vector is None:
        return None
    tied = flow.labels.tie(vector.reshape(groups, -1), {0}, flow.where).reshape(-1)
    return Value(call.shape, [np.repeat(tied, groups).reshape([1, -1] + [1] * (len(x.shape) - 2))])


@operator("aten.pixel_unshuffle", adds_up=False)
def pixel_unshuffle(flow: Flow, call: Call) -> Result:
    """(batch, channels, h, w) to (batch, channels * r * r, h / r, w / r)."""
    x, square = call.args[0], call.args[1] ** 2
    flow.freeze(x, f"spatial positions at {flow.where}", dims=range(len(x.shape) - 2, len(x.shape)))
    return Value(call.shape, [np.repeat(f, square, f.ndim - 3) for f in flow.label_arrays(x)])


@operator("getitem", adds_up=False, free=True)
def getitem(flow: Flow, call: Call) -> Result:
    """One of several results of the previous operator."""
    return op.getitem(call.args[0], call.args[1])
