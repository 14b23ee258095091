"""Convolutions and matrix products: channels that are summed over are tied to the weights that they meet."""

from __future__ import annotations

import math

import numpy as np

from anywidth.groups.flow import Flow
from anywidth.groups.labels import Array, varying
from anywidth.groups.operators import masked
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Operand, Value

__all__ = ["convolve"]


def _axis(vector: Array | None, ndim: int, dim: int) -> list[Array]:
    if vector is None:
        return []
    shape = [1] * ndim
    shape[dim] = vector.size
    return [vector.reshape(shape)]


def convolve(
    flow: Flow, call: Call, operands: tuple[Value, Value, Value | None], groups: int, *, transposed: bool
) -> Value:
    """Labels of the result of a convolution of (input, weight, bias)."""
    x, weight, bias = operands
    spatial = len(weight.shape) - 2
    channel = len(x.shape) - spatial - 1  # 1, or 0 for an unbatched input
    flow.freeze(x, f"spatial positions at {flow.where}", dims=range(channel + 1, len(x.shape)))
    flow.freeze(weight, "kernel size", dims=range(2, len(weight.shape)))
    x_channels = flow.along(x, channel)
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    inward, outward = _labels(flow, weight, in_dim), _labels(flow, weight, out_dim)
    few = groups > 1 and _few(groups, weight.shape)
    if groups == 1:
        flow.require_equal(x_channels, inward, x.origin if x_channels is None else weight.origin)
        scales = [inward, outward]
    else:
        outward, scales = _grouped(flow, groups, few, transposed, x_channels, inward, outward, x.origin)
    if bias is not None:
        flow.require_equal(outward, flow.along(bias, 0), weight.origin)
    positions = math.prod(x.shape[channel + 1 :]) if transposed else math.prod(call.shape[channel + 1 :])
    batch = x.shape[0] if channel else 1
    macs = batch * positions * math.prod(weight.shape)
    kind = "conv" if groups == 1 else "grouped conv"
    made = (out_dim,) if groups == 1 or few else ()
    samples = [label_array for label_array in flow.label_arrays(x) if varying(label_array) == {0} and channel]
    flow.record(kind, macs, [s.reshape(-1) for s in (*scales, *samples) if s is not None], weight.weight, made)
    return Value(call.shape, [*_axis(outward, len(call.shape), channel), *samples], origin=x.origin)


def _labels(flow: Flow, weight: Value, dim: int) -> Array | None:
    """Labels along a dimension of a weight; a single filter repeated for all channels follows those that it meets."""
    return weight.follows[dim] if dim in weight.follows else flow.along(weight, dim)


def _few(groups: int, shape: tuple[int, ...]) -> bool:
    """Whether a grouped convolution has few large groups, as in ShuffleNet, rather than many small ones."""
    return groups in (2, 3, 4, 8) and min(shape[1], shape[0] // groups) > groups


def _grouped(
    flow: Flow,
    groups: int,
    few: bool,
    transposed: bool,
    x_channels: Array | None,
    inward: Array | None,
    outward: Array | None,
    origin: str,
) -> tuple[Array | None, list[Array | None]]:
    """Labels of the output of a grouped convolution, and the labels that scale its MACs.

    `fixed` is the weight's dimension inside one group, `split` the one over all groups. A few large groups are each
    narrowed inside; many small ones (including depthwise) are kept or dropped whole.
    """
    fixed, split = (outward, inward) if transposed else (inward, outward)
    inside = 1 if fixed is None else fixed.size
    dims = {0} if few else {1}
    tied = [
        None if vector is None else flow.labels.tie(vector.reshape(groups, -1), dims, flow.where).reshape(-1)
        for vector in (x_channels, split)
    ]
    flow.number(groups, None if few else tied[1], "groups")
    if few:
        # Column j of every group: of the inputs with the weight's inner dimension, of the outputs by itself.
        inner, other = (tied[1], fixed) if transposed else (tied[0], fixed)
        if transposed:
            flow.require_equal(tied[0], tied[1], origin)
            return None if fixed is None else np.tile(fixed, groups), [split, fixed]
        flow.require_equal(inner, other, origin)
        return split, [split, fixed]
    if fixed is not None:
        flow.labels.freeze(fixed, f"channels inside one group of a grouped convolution ({flow.module})")
    flow.require_equal(tied[0], tied[1], origin)
    if transposed:
        return None if tied[1] is None else np.repeat(tied[1], inside), [split]
    return split, [split]


@operator("aten.conv1d", "aten.conv2d", "aten.conv3d", by_weight=True)
def convolution(flow: Flow, call: Call) -> Result:
    """Convolution of (batch, channels, *positions) with a weight of (out, in / groups, *kernel)."""
    operands = (call.args[0], call.args[1], call.argument(2, "bias"))
    return convolve(flow, call, operands, call.argument(6, "groups", 1), transposed=False)


@operator("aten.convolution")
def general_convolution(flow: Flow, call: Call) -> Result:
    """The general form: (input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)."""
    return convolve(flow, call, call.args[:3], call.args[8], transposed=call.args[6])


@operator("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def transposed_convolution(flow: Flow, call: Call) -> Result:
    """Transposed convolution with a weight of (in, out / groups, *kernel)."""
    operands = (call.args[0], call.args[1], call.argument(2, "bias"))
    return convolve(flow, call, operands, call.argument(6, "groups", 1), transposed=True)


@operator("aten.linear", by_weight=True)
def linear(flow: Flow, call: Call) -> Result:
    """Product of (..., in) with a weight of (out, in), plus a bias of (out,)."""
    x, weight = call.args[0], call.args[1]
    lead = tuple(range(len(x.shape) - 1))
    label_arrays = flow.contract([Operand(x, (*lead, "in")), Operand(weight, ("out", "in"))], (*lead, "out"), "linear")
    return _add(flow, Value(call.shape, label_arrays), call.argument(2, "bias"))


def _add(flow: Flow, product: Value, bias: Value | None) -> Value:
    if bias is None:
        return product
    return Value(product.shape, flow.elementwise([product, bias], product.shape))


def _matmul(flow: Flow, a: Value, b: Value, shape: tuple[int, ...]) -> Value:
    """Batched matrix product; vectors and broadcast batch dimensions as in torch.matmul."""
    a_axis_names: tuple[object, ...] = ("m", "k") if len(a.shape) > 1 else ("k",)
    b_axis_names: tuple[object, ...] = ("k", "n") if len(b.shape) > 1 else ("k",)
    depth = max(len(a.shape) - len(a_axis_names), len(b.shape) - len(b_axis_names))
    batch = tuple(range(depth))
    out = (*batch, *(axis_name for axis_name in ("m", "n") if axis_name in (*a_axis_names, *b_axis_names)))
    operands = [
        Operand(value, (*batch[depth - (len(value.shape) - len(axis_names)) :], *axis_names))
        for value, axis_names in ((a, a_axis_names), (b, b_axis_names))
    ]
    return Value(shape, flow.contract(operands, out, "matmul"))


@operator("aten.matmul", "aten.bmm", "aten.mm", "aten.mv", "aten.dot", "aten.vdot", "aten.linalg_matmul")
def matmul(flow: Flow, call: Call) -> Result:
    """The matrix product of two values."""
    return _matmul(flow, call.args[0], call.args[1], call.shape)


@operator("aten.addmm", "aten.baddbmm", "aten.addmv")
def add_matmul(flow: Flow, call: Call) -> Result:
    """A matrix product plus a bias."""
    return _add(flow, _matmul(flow, call.args[1], call.args[2], call.shape), call.args[0])


@operator("aten.bilinear")
def bilinear(flow: Flow, call: Call) -> Result:
    """Products of every channel of one value with every channel of another, with a weight of (out, in, in)."""
    a, b, weight = call.args[:3]
    lead = tuple(range(len(a.shape) - 1))
    operands = [Operand(weight, ("out", "a", "b")), Operand(a, (*lead, "a")), Operand(b, (*lead, "b"))]
    label_arrays = flow.contract(operands, (*lead, "out"), "bilinear")
    return _add(flow, Value(call.shape, label_arrays), call.argument(3, "bias"))


@operator("aten.scaled_dot_product_attention", masked=masked.attention)
def attention(flow: Flow, call: Call) -> Result:
    """softmax(q k^T) v over (batch, heads, tokens, channels): heads are kept or dropped whole."""
    q, k, v = call.args[:3]
    mask = call.argument(3, "attn_mask")
    if call.node.kwargs.get("enable_gqa"):  # consecutive query heads share one head of keys and values
        k, v = (_repeat_heads(flow, value, q.shape[-3] // value.shape[-3]) for value in (k, v))
    if any(a != b and 1 not in (a, b) for a, b in zip(q.shape[:-2], k.shape[:-2], strict=False)):
        for value in call.values():
            flow.freeze(value, f"heads of different numbers at {flow.where}")
        return None
    lead = tuple(range(len(call.shape) - 2))
    first, second, third = (lead[len(lead) - len(value.shape) + 2 :] for value in (q, k, v))
    scores_shape = (*np.broadcast_shapes(q.shape[:-2], k.shape[:-2]), q.shape[-2], k.shape[-2])
    scores = Value(
        scores_shape,
        flow.contract(
            [Operand(q, (*first, "q", "c")), Operand(k, (*second, "k", "c"))],
            (*lead[len(call.shape) - len(scores_shape) :], "q", "k"),
            "attention",
        ),
    )
    if isinstance(mask, Value):
        scores = Value(scores_shape, flow.elementwise([scores, mask], scores_shape))
    heads = lead[len(call.shape) - len(scores_shape) :]
    label_arrays = flow.contract(
        [Operand(scores, (*heads, "q", "k")), Operand(v, (*third, "k", "c"))], (*lead, "q", "c"), "attention"
    )
    return Value(call.shape, label_arrays)


def _repeat_heads(flow: Flow, value: Value, times: int) -> Value:
    """Repeat each head of (batch, heads, tokens, channels) several times in a row."""
    label_arrays = [np.repeat(f, times, -3) if f.shape[-3] > 1 else f for f in flow.label_arrays(value)]
    shape = (*value.shape[:-3], value.shape[-3] * times, *value.shape[-2:])
    return Value(shape, label_arrays, origin=value.origin)
