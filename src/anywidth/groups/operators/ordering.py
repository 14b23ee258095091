"""Operators that compare or accumulate positions in order: channels along them stay whole."""

from __future__ import annotations

import numpy as np

from anywidth.groups.flow import Flow
from anywidth.groups.operators.masked import always
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Value

__all__ = ["whole"]


def whole(flow: Flow, x: Value, dims: set[int], reason: str) -> Value:
    """A value whose dimensions `dims` cannot be narrowed: labels that depend only on them are frozen."""
    label_arrays = []
    for label_array in flow.label_arrays(x):
        over = {dim for dim in dims if label_array.shape[dim] > 1}
        if over and label_array.size > np.prod([label_array.shape[dim] for dim in over]):
            label_array = flow.labels.tie(label_array, over, flow.where)
        elif over:
            flow.labels.freeze(label_array, reason)
        label_arrays.append(label_array)
    return Value(x.shape, label_arrays, origin=x.origin, shape_follows=x.shape_follows)


def _fitted(value: Value, shape: tuple[int, ...], dim: int) -> Value:
    """The same labels for a result with fewer positions along `dim`, or without it."""
    label_arrays = []
    for label_array in value.label_arrays:
        if len(shape) < label_array.ndim:
            label_array = label_array.take(0, dim)
        elif label_array.shape[dim] > 1:
            label_array = label_array.take(range(min(label_array.shape[dim], shape[dim])), dim)
        label_arrays.append(label_array)
    return Value(shape, label_arrays, origin=value.origin)


@operator(
    "aten.sort", "aten.argsort", "aten.msort", "aten.topk", "aten.kthvalue", "aten.median", "aten.nanmedian",
    "aten.mode", "aten.argmax", "aten.argmin", "aten.cummax", "aten.cummin", "aten.cumprod", "aten.diff",
    "aten.trapezoid", "aten.trapz", "aten.cumulative_trapezoid",
)  # fmt: skip
@operator("aten.logcumsumexp", compacted=always)
@operator("aten.cumsum", shape_follows=True)
def ordered(flow: Flow, call: Call) -> Result:
    """Sorting, ranking and accumulation along one dimension, separately for every position of the others."""
    x = call.args[0]
    dim = _dim(flow, call)
    if not isinstance(dim, int) or not x.shape:
        flow.freeze(x, f"order of channels matters at {flow.where}")
        return [Value(shape) for shape in call.shapes]
    dim %= len(x.shape)
    kept = whole(flow, x, {dim}, f"order of channels matters at {flow.where}")
    return [_fitted(kept, shape, dim) for shape in call.shapes]


@operator("aten.quantile", "aten.nanquantile")
def quantile(flow: Flow, call: Call) -> Result:
    """Quantiles along one dimension; several quantiles become the first dimension."""
    x, shares, dim = call.args[0], call.args[1], call.argument(2, "dim")
    lead = len(shares.shape) if isinstance(shares, Value) else 0
    dims = set(range(len(x.shape))) if dim is None else {dim % len(x.shape)}
    kept = whole(flow, x, dims, f"order of channels matters at {flow.where}")
    rest = [f for f in kept.label_arrays if all(f.shape[d] == 1 for d in dims)]
    if len(call.shape) - lead < len(x.shape):
        rest = [f.reshape([size for d, size in enumerate(f.shape) if d not in dims]) for f in rest]
    return Value(call.shape, [f.reshape([1] * lead + list(f.shape)) for f in rest])


def _dim(flow: Flow, call: Call) -> object:
    """The dimension along which an operator works; None for all."""
    names = flow.operator.split(".")
    base = names[1]
    position, default = {
        "sort": (1, -1), "argsort": (1, -1), "msort": (9, 0), "topk": (2, -1), "kthvalue": (2, -1), "mode": (1, -1),
        "diff": (2, -1), "trapezoid": (9, -1), "trapz": (9, -1),
        "cumulative_trapezoid": (9, -1),
    }.get(base, (1, None))  # fmt: skip
    if base in ("sort", "argsort") and "stable" in names[-1]:
        return call.kwargs.get("dim", call.args[2] if len(call.args) > 2 else default)
    return call.argument(position, "dim", default)


@operator("aten.searchsorted", "aten.bucketize")
def buckets(flow: Flow, call: Call) -> Result:
    """The interval of every value; the bounds are one vector."""
    first = "bucketize" in flow.operator
    x, bounds = (call.args[0], call.args[1]) if first else (call.args[1], call.args[0])
    if not isinstance(x, Value):
        flow.freeze(bounds, f"bounds of intervals at {flow.where}")
        return None
    flow.freeze(bounds, f"bounds of intervals at {flow.where}")
    if len(bounds.shape) > 1:
        flow.freeze(x, f"bounds of intervals at {flow.where}")
        return None
    return Value(call.shape, flow.label_arrays(x))


@operator("aten.tril", "aten.triu")
def triangle(flow: Flow, call: Call) -> Result:
    """One triangle of every matrix, selected by comparing row and column numbers."""
    x = call.args[0]
    last = {len(x.shape) - 2, len(x.shape) - 1}
    result = whole(flow, x, last, f"rows and columns are counted at {flow.where}")
    result.follows = {dim: vector for dim, vector in x.follows.items() if dim not in last}
    return result
