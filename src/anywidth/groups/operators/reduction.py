"""Reductions, normalizations and pooling."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from anywidth.groups.flow import Flow
from anywidth.groups.operators import masked
from anywidth.groups.operators.masked import always, least_norm
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Operand, Value

__all__ = ["reduced"]


def reduced(flow: Flow, x: Value, dims: Iterable[int], shape: tuple[int, ...]) -> Value:
    """A value's labels after a reduction over `dims`, with or without keepdim."""
    over = {d % len(x.shape) for d in dims}
    label_arrays = []
    for label_array in flow.label_arrays(x):
        label_array = flow.reduce(label_array, over)
        if len(shape) < len(x.shape):
            label_array = label_array.reshape([s for d, s in enumerate(label_array.shape) if d not in over])
        label_arrays.append(label_array)
    return Value(shape, label_arrays, origin=x.origin)


@operator("aten.mean", shape_follows=True, masked=masked.moments)
@operator("aten.sum", shape_follows=True)
@operator(
    "aten.amax", "aten.amin", "aten.logsumexp", "aten.max.dim", "aten.min.dim", "aten.max", "aten.min",
    masked=masked.extreme,
)  # fmt: skip
@operator("aten.var", "aten.std", "aten.var_mean", "aten.std_mean", masked=masked.moments)
@operator(
    "aten.norm", "aten.any", "aten.nansum", "aten.count_nonzero", "aten.frobenius_norm", "aten.nuclear_norm",
    "aten._is_all_true", "aten._is_any_true", "aten.special_logsumexp",
)  # fmt: skip
@operator("aten.linalg_vector_norm", compacted=least_norm)
@operator(
    "aten.prod", "aten.aminmax", "aten.all", "aten.nanmean", "aten.linalg_norm", "aten.linalg_matrix_norm",
    compacted=always,
)  # fmt: skip
def reduction(flow: Flow, call: Call) -> Result:
    """Reductions over some or all dimensions; labels of the reduced dimensions end here."""
    x = call.args[0]
    plain = flow.operator.startswith(("aten.frobenius_norm", "aten.nuclear_norm"))
    position = 2 if "norm" in flow.operator and not plain else 1
    dims = call.argument(position, "dim", [-2, -1] if "matrix_norm" in flow.operator else None)
    if "aminmax" in flow.operator:
        dims = call.kwargs.get("dim")
    if isinstance(dims, Value):  # the element-wise max(a, b)
        return Value(call.shape, flow.elementwise([x, dims], call.shape))
    if dims is None or dims == [] or isinstance(dims, bool):
        dims = range(len(x.shape))
    elif isinstance(dims, int):
        dims = [dims]
    if ".mean." in flow.operator and {d % len(x.shape) for d in dims} >= set(range(2, len(x.shape))):
        flow.record("average pool", math.prod(x.shape), flow.label_arrays(x))
    results = [reduced(flow, x, dims, shape) for shape in call.shapes]
    return results[0] if len(results) == 1 else results


@operator("aten.norm_except_dim")
def norm_of_slices(flow: Flow, call: Call) -> Result:
    """Norms over all dimensions except one, with unchanged dimensions."""
    x, kept = call.args[0], call.argument(2, "dim", 0)
    return reduced(flow, x, set(range(len(x.shape))) - {kept % len(x.shape)}, call.shape)


@operator("aten.softmax", "aten.log_softmax", masked=masked.extreme)
@operator(
    "aten._softmax", "aten.softmin", "aten._log_softmax", "aten._safe_softmax", "aten.special_softmax",
    "aten.special_log_softmax",
)  # fmt: skip
def softmax(flow: Flow, call: Call) -> Result:
    """Softmax along one dimension, which stays whole unless it is the only one with labels."""
    x, dim = call.args[0], call.argument(1, "dim", -1)
    dim %= len(x.shape)
    label_arrays = []
    for label_array in flow.label_arrays(x):
        if label_array.size > label_array.shape[dim] > 1:
            label_array = flow.labels.tie(label_array, {dim}, flow.where)
        label_arrays.append(label_array)
    return Value(call.shape, label_arrays)


@operator("aten.batch_norm", masked=masked.batch_norm)
@operator("aten._native_batch_norm_legit", "aten.native_batch_norm", "aten.instance_norm")
def batch_norm(flow: Flow, call: Call) -> Result:
    """Batch and instance norm of (batch, channels, ...): weight, bias and statistics follow the channels."""
    x = call.args[0]
    axis_names = tuple(range(len(x.shape)))
    vectors = [Operand(v, (1,)) for v in call.args[1:5] if isinstance(v, Value)]
    label_arrays, _ = flow.merge([Operand(x, axis_names), *vectors], axis_names)
    results = [Value(call.shape, label_arrays), *(Value(shape) for shape in call.shapes[1:])]
    return results[0] if len(results) == 1 else results


@operator("aten.layer_norm", "aten.rms_norm", masked=masked.layer_norm)
@operator("aten.native_layer_norm", "aten._fused_rms_norm")
def layer_norm(flow: Flow, call: Call) -> Result:
    """Layer and RMS norm over the last dimensions: weight and bias follow the channels."""
    x, normalised = call.args[0], len(call.args[1])
    over = set(range(len(x.shape) - normalised, len(x.shape)))
    kept = [
        flow.labels.tie(f, over, flow.where) if any(f.shape[d] > 1 for d in set(range(f.ndim)) - over) else f
        for f in flow.label_arrays(x)
    ]
    values = [Value(x.shape, kept, origin=x.origin), *(v for v in call.args[2:4] if isinstance(v, Value))]
    label_arrays = flow.elementwise(values, x.shape)
    results = [Value(call.shape, label_arrays), *(Value(shape) for shape in call.shapes[1:])]
    return results[0] if len(results) == 1 else results


@operator("aten._weight_norm", "aten._weight_norm_interface")
def weight_norm(flow: Flow, call: Call) -> Result:
    """Weight norm: normalized direction times length, with one length per position of a dimension."""
    label_arrays = flow.elementwise([v for v in call.args[:2] if isinstance(v, Value)], call.shape)
    return [Value(call.shape, label_arrays), *(Value(shape) for shape in call.shapes[1:])]


@operator("aten.group_norm", masked=masked.group_norm)
@operator("aten.native_group_norm")
def group_norm(flow: Flow, call: Call) -> Result:
    """Group norm: groups are kept or dropped whole, so that kept ones are normalized as in the full network."""
    x, groups = call.args[0], call.args[1]
    vector = flow.along(x, 1)
    if vector is not None and groups > 1:
        vector = flow.labels.tie(vector.reshape(groups, -1), {1}, flow.where).reshape(-1)
        flow.number(groups, vector, "num_groups")
    operands = [Operand(x, tuple(range(len(x.shape))))]
    operands += [Operand(v, (1,)) for v in (call.argument(2, "weight"), call.argument(3, "bias")) if v is not None]
    return Value(call.shape, flow.merge(operands, tuple(range(len(x.shape))))[0])


@operator(
    "aten.max_pool1d", "aten.max_pool2d", "aten.max_pool3d", "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d",
    "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d", "aten.adaptive_avg_pool3d", "aten.adaptive_max_pool1d",
    "aten.adaptive_max_pool2d", "aten.adaptive_max_pool3d", "aten.max_pool2d_with_indices", "aten.upsample_nearest2d",
    "aten.upsample_bilinear2d", "aten.upsample_bicubic2d", "aten.upsample_linear1d", "aten.upsample_nearest1d",
    "aten.upsample_trilinear3d", "aten.upsample_nearest3d", "aten.reflection_pad1d", "aten.reflection_pad2d",
    "aten.replication_pad2d", "aten.replication_pad1d", "aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa",
    "aten.upsample_nearest_exact2d", "aten._upsample_nearest_exact2d", "aten._upsample_nearest_exact1d",
    "aten._upsample_nearest_exact3d", "aten.replication_pad3d", "aten.reflection_pad3d",
    "aten.max_pool1d_with_indices", "aten.max_pool3d_with_indices", "aten._adaptive_avg_pool2d",
    "aten._adaptive_avg_pool3d",
)  # fmt: skip
def spatial(flow: Flow, call: Call) -> Result:
    """Pooling and resizing of (batch, channels, *positions): channels pass through, positions cannot be narrowed."""
    x = call.args[0]
    flow.freeze(x, f"neighbours are mixed at {flow.where}", dims=range(2, len(x.shape)))
    label_arrays = [f for f in flow.label_arrays(x) if all(s == 1 for s in f.shape[2:])]
    if "avg_pool" in flow.operator:
        flow.record("average pool", math.prod(x.shape), label_arrays)
    results = [Value(shape, label_arrays) for shape in call.shapes]
    return results[0] if len(results) == 1 else results


@operator("aten.col2im")
def fold(flow: Flow, call: Call) -> Result:
    """Sums of sliding windows, (batch, channels * kernel, windows) as (batch, channels, h, w)."""
    x, channels = call.args[0], len(call.shape) - 3
    flow.freeze(x, f"spatial positions at {flow.where}", dims=[len(x.shape) - 1])
    vector = flow.along(x, channels)
    if vector is None:
        return None
    vector = flow.labels.tie(vector.reshape(call.shape[channels], -1), {1}, flow.where)
    return Value(call.shape, [vector.reshape([1] * channels + [-1, 1, 1])])


@operator("aten.unfold", "aten.im2col")
def unfold(flow: Flow, call: Call) -> Result:
    """Sliding windows of (batch, channels, h, w) as (batch, channels * kernel, windows)."""
    x = call.args[0]
    if "im2col" not in flow.operator:
        dim = call.args[1] % len(x.shape)
        flow.freeze(x, f"sliding windows at {flow.where}", dims=[dim])
        return Value(call.shape, [np.expand_dims(f, -1) for f in flow.label_arrays(x) if f.shape[dim] == 1])
    flow.freeze(x, f"spatial positions at {flow.where}", dims=range(2, len(x.shape)))
    vector = flow.along(x, 1)
    if vector is None:
        return None
    return Value(call.shape, [np.repeat(vector, call.shape[1] // vector.size).reshape(1, -1, 1)])
