"""Reads and writes by index tensors: the indexed dimension stays whole, the labels of the others pass through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from anywidth.groups.flow import Flow
from anywidth.groups.labels import varying
from anywidth.groups.operators.masked import always
from anywidth.groups.operators.ordering import whole
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Operand, Value

__all__: list[str] = []


def _keep_whole(flow: Flow, value: Value, dim: int) -> None:
    flow.freeze(value, f"looked up by an index at {flow.where}", dims=[dim])


def _positions(flow: Flow, value: Value) -> None:
    """Keep stored positions; freeze computed ones along channels, because they may differ by channel."""
    if value.source is not None:
        flow.freeze(value, f"positions of an index at {flow.where}")


def _equal_sizes(flow: Flow, values: Sequence[Value], dim: int) -> None:
    """If operands differ in size along dimensions other than `dim`, only the first positions are used."""
    for d in range(len(values[0].shape)):
        if d != dim and len({value.shape[d] for value in values}) > 1:
            for value in values:
                flow.freeze(value, f"only its first positions are used at {flow.where}", dims=[d])


def _merge(flow: Flow, operands: Sequence[Operand], out: Sequence[object], shape: tuple[int, ...]) -> Value:
    """Labels without those of dimensions whose size has changed."""
    label_arrays = flow.merge(operands, out)[0]
    return Value(shape, [f for f in label_arrays if all(f.shape[d] in (1, shape[d]) for d in range(f.ndim))])


@operator("aten.index_select", "aten.embedding", "aten.embedding_bag", adds_up=False)
def index_select(flow: Flow, call: Call) -> Result:
    """Rows of a table, or positions of one dimension; an embedding bag sums or averages rows."""
    x, name = call.args[0], flow.operator
    dim = call.args[1] % len(x.shape) if "index_select" in name else 0
    positions = call.args[2] if "index_select" in name else call.args[1]
    for value in call.values()[1:]:
        flow.freeze(value, f"positions of an index at {flow.where}")
    _keep_whole(flow, x, dim)
    ndim = 1 if "index_select" in name or "bag" in name else len(positions.shape)
    rest = [f for f in flow.label_arrays(x) if f.shape[dim] == 1]
    result = Value(call.shape, [f.reshape([*f.shape[:dim], *[1] * ndim, *f.shape[dim + 1 :]]) for f in rest])
    return result if len(call.shapes) == 1 else [result, *(Value(shape) for shape in call.shapes[1:])]


@operator("aten.index", adds_up=False, shape_follows=True)
@operator("aten._unsafe_index", adds_up=False)
def index(flow: Flow, call: Call) -> Result:
    """`x[i, :, j]` with tensors of integers."""
    x, indices = call.args[0], call.args[1]
    axis_names = _axis_names(flow, x, indices, call)
    if axis_names is None:
        return None
    own, out, operands = axis_names
    return _merge(flow, [Operand(x, own), *operands], out, call.shape)


def _axis_names(flow: Flow, x: Value, indices: Sequence[Value | None], call: Call) -> Any:
    """Letters of `x`, of `x[indices]`, and the index tensors as operands; None for boolean indices."""
    nodes = [node for node in call.node.args[1] if node is not None]  # type: ignore[union-attr]
    if any(node.meta["val"].dtype in (torch.bool, torch.uint8) for node in nodes):  # type: ignore[union-attr]
        for value in call.values():
            flow.freeze(value, f"picked by a mask at {flow.where}")
        return None
    places = [d for d, i in enumerate(indices) if i is not None]
    found = [value for value in indices if value is not None]
    for value, place in zip(found, places, strict=True):
        _positions(flow, value)
        _keep_whole(flow, x, place)
    depth = max(len(value.shape) for value in found)
    fresh = [("index", k) for k in range(depth)]
    own: list[object] = [("old", d) if d in places else d for d in range(len(x.shape))]
    rest = [d for d in range(len(x.shape)) if d not in places]
    together = places == list(range(places[0], places[-1] + 1))
    first = places[0] if together else 0
    out = [*[d for d in rest if d < first], *fresh, *[d for d in rest if d >= first]]
    operands = [Operand(value, tuple(fresh[depth - len(value.shape) :])) for value in found]
    return own, out, operands


@operator("aten.index_put", "aten._unsafe_index_put", "aten._index_put_impl_", adds_up=False)
def index_put(flow: Flow, call: Call) -> Result:
    """`x[i, :, j] = values`, also for a mask of booleans and one value."""
    x, indices, values = call.args[:3]
    flags = [value for value in indices if value is not None]
    if len(flags) == 1 and indices[0] is flags[0] and not any(size > 1 for size in values.shape):
        flag_node = next(node for node in call.node.args[1] if node is not None)  # type: ignore[union-attr]
        if flag_node.meta["val"].dtype == torch.bool:  # type: ignore[union-attr]
            lead = tuple(range(len(flags[0].shape)))
            axis_names = tuple(range(len(x.shape)))
            return _merge(flow, [Operand(x, axis_names), Operand(flags[0], lead)], axis_names, call.shape)
    axis_names = _axis_names(flow, x, indices, call)
    if axis_names is None:
        return None
    own, out, operands = axis_names
    placed = out[len(out) - len(values.shape) :]
    operands = [Operand(x, own), *operands, Operand(values, tuple(placed))]
    for dim, axis_name in enumerate(placed):
        if isinstance(axis_name, tuple):
            flow.freeze(values, f"placed by an index at {flow.where}", dims=[dim])
    return _merge(flow, operands, own, call.shape)


@operator("aten.gather", "aten.take_along_dim", adds_up=False)
def gather(flow: Flow, call: Call) -> Result:
    """A lookup along one dimension, with an index for every position of the others."""
    along = "along" in flow.operator
    x, indices = (call.args[0], call.args[1]) if along else (call.args[0], call.args[2])
    dim = call.argument(2, "dim") if along else call.args[1]
    if dim is None or not x.shape:
        for value in (x, indices):
            flow.freeze(value, f"looked up by an index at {flow.where}")
        return None
    dim %= len(x.shape)
    _positions(flow, indices)
    _keep_whole(flow, x, dim)
    if not along:
        _equal_sizes(flow, [x, indices], dim)
    out = list(range(len(call.shape)))
    own: list[object] = [("old", d) if d == dim else d for d in out]
    return _merge(flow, [Operand(x, tuple(own)), Operand(indices, tuple(out))], out, call.shape)


@operator("aten.scatter", "aten.scatter_add", "aten.scatter_reduce", adds_up=False)
def scatter(flow: Flow, call: Call) -> Result:
    """Writes along one dimension, with an index for every position of the others."""
    x, dim, indices, source = call.args[:4]
    dim %= max(1, len(x.shape))
    sources = [indices, *([source] if isinstance(source, Value) else [])]
    return _write(flow, x, dim, sources, call.shape)


@operator("aten.index_add", "aten.index_copy", "aten.index_fill", "aten.index_reduce", adds_up=False)
def index_add(flow: Flow, call: Call) -> Result:
    """Writes of whole slices along one dimension, to the positions of a vector."""
    x, dim, positions, source = call.args[:4]
    dim %= max(1, len(x.shape))
    flow.freeze(positions, f"positions of an index at {flow.where}")
    slices = isinstance(source, Value) and len(source.shape) == len(x.shape)
    return _write(flow, x, dim, [source] if slices else [], call.shape)


def _write(flow: Flow, x: Value, dim: int, sources: Sequence[Value], shape: tuple[int, ...]) -> Value:
    _keep_whole(flow, x, dim)
    for source in sources:
        flow.freeze(source, f"placed by an index at {flow.where}", dims=[dim])
    _equal_sizes(flow, [x, *sources], dim)
    axis_names = list(range(len(shape)))
    there = tuple("from" if d == dim else d for d in axis_names)
    operands = [Operand(x, tuple(axis_names)), *(Operand(source, there) for source in sources)]
    return _merge(flow, operands, axis_names, shape)


@operator("aten.masked_scatter", adds_up=False, compacted=always)
def masked_scatter(flow: Flow, call: Call) -> Result:
    """Replace masked elements of a value by the elements of a source, in order, with the same channels last."""
    x, mask, source = call.args
    label_arrays = flow.elementwise([x, mask], call.shape)
    if source.shape == call.shape:
        return Value(
            call.shape,
            flow.elementwise([Value(call.shape, label_arrays, shape_follows=x.shape_follows), source], call.shape),
        )
    flow.freeze(source, f"placed by a mask at {flow.where}", dims=range(len(source.shape) - 1))
    result = Value(call.shape, [f for f in label_arrays if varying(f) <= {len(call.shape) - 1}])
    flow.freeze(Value(call.shape, label_arrays), f"filled by a mask at {flow.where}", dims=range(len(call.shape) - 1))
    flow.require_equal(flow.along(result, -1), flow.along(source, -1), source.origin)
    return result


@operator(
    "aten.take", "aten.put", "aten.nonzero", "aten.nonzero_static", "aten.masked_select", "aten.argwhere",
    "aten._unique", "aten._unique2", "aten.unique_dim", "aten.unique_consecutive", "aten.unique_dim_consecutive",
    "aten.histc", "aten.histogram", "aten.bincount", adds_up=False,
)  # fmt: skip
def flattened(flow: Flow, call: Call) -> Result:
    """Operators on flattened elements, or with a result whose size depends on values."""
    for value in call.values():
        flow.freeze(value, f"positions over all dimensions count at {flow.where}")
    return None


@operator("aten.repeat_interleave.self_Tensor", "aten.repeat_interleave.Tensor", adds_up=False)
def repeat_each(flow: Flow, call: Call) -> Result:
    """Repeat every position of one dimension by the numbers in a tensor."""
    x, dim = call.args[0], call.argument(2, "dim")
    if dim is None or "self" not in flow.operator:
        for value in call.values():
            flow.freeze(value, f"repeated by numbers of a tensor at {flow.where}")
        return None
    dim %= len(x.shape)
    flow.freeze(call.args[1], f"numbers of repeats at {flow.where}")
    kept = whole(flow, x, {dim}, f"repeated by numbers of a tensor at {flow.where}")
    return Value(call.shape, [f for f in kept.label_arrays if f.shape[dim] == 1], origin=x.origin)


@operator("aten.multinomial", adds_up=False)
def drawn(flow: Flow, call: Call) -> Result:
    """Random positions along the last dimension, with given probabilities."""
    x = call.args[0]
    kept = whole(flow, x, {len(x.shape) - 1}, f"positions are drawn at {flow.where}")
    return Value(call.shape, [f for f in kept.label_arrays if f.shape[-1] == 1])


@operator("aten.one_hot", adds_up=False)
def one_hot(flow: Flow, call: Call) -> Result:
    """A new last dimension of fixed size."""
    return Value(call.shape, [f.reshape([*f.shape, 1]) for f in flow.label_arrays(call.args[0])])
