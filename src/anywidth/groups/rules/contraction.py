"""Convolutions and matrix products: the channels summed over belong with the weights that they meet."""

from __future__ import annotations

import math

import numpy as np

from anywidth.groups.flow import Flow, Operand, Value
from anywidth.groups.labels import Array, varying
from anywidth.groups.rules.registry import Call, Result, rule

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
    """Labels of what a convolution of (input, weight, bias) returns."""
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
        flow.meet(x_channels, inward, x.origin if x_channels is None else weight.origin)
        scales = [inward, outward]
    else:
        outward, scales = _grouped(flow, groups, few, transposed, x_channels, inward, outward, x.origin)
    if bias is not None:
        flow.meet(outward, flow.along(bias, 0), weight.origin)
    positions = math.prod(x.shape[channel + 1 :]) if transposed else math.prod(call.shape[channel + 1 :])
    batch = x.shape[0] if channel else 1
    macs = batch * positions * math.prod(weight.shape)
    kind = "conv" if groups == 1 else "grouped conv"
    made = (out_dim,) if groups == 1 or few else ()
    samples = [facet for facet in flow.facets(x) if varying(facet) == {0} and channel]
    flow.record(kind, macs, [s.reshape(-1) for s in (*scales, *samples) if s is not None], weight.weight, made)
    return Value(call.shape, [*_axis(outward, len(call.shape), channel), *samples], origin=x.origin)


def _labels(flow: Flow, weight: Value, dim: int) -> Array | None:
    """Labels along a dimension of a weight; one filter repeated for all channels follows those that it meets."""
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
    """Labels of the output of a grouped convolution, and what scales its MACs.

    `fixed` is the weight's dimension inside one group, `split` the one that counts all groups. Few large groups are
    narrowed inside each, many small ones (depthwise among them) are kept or dropped whole.
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
            flow.meet(tied[0], tied[1], origin)
            return None if fixed is None else np.tile(fixed, groups), [split, fixed]
        flow.meet(inner, other, origin)
        return split, [split, fixed]
    if fixed is not None:
        flow.labels.freeze(fixed, f"channels inside one group of a grouped convolution ({flow.module})")
    flow.meet(tied[0], tied[1], origin)
    if transposed:
        return None if tied[1] is None else np.repeat(tied[1], inside), [split]
    return split, [split]


@rule("aten.conv1d", "aten.conv2d", "aten.conv3d")
def convolution(flow: Flow, call: Call) -> Result:
    """Convolution of (batch, channels, *positions) with a weight of (out, in / groups, *kernel)."""
    operands = (call.args[0], call.args[1], call.argument(2, "bias"))
    return convolve(flow, call, operands, call.argument(6, "groups", 1), transposed=False)


@rule("aten.convolution")
def general_convolution(flow: Flow, call: Call) -> Result:
    """The general form: (input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)."""
    return convolve(flow, call, call.args[:3], call.args[8], transposed=call.args[6])


@rule("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d")
def transposed_convolution(flow: Flow, call: Call) -> Result:
    """Transposed convolution with a weight of (in, out / groups, *kernel)."""
    operands = (call.args[0], call.args[1], call.argument(2, "bias"))
    return convolve(flow, call, operands, call.argument(6, "groups", 1), transposed=True)


@rule("aten.linear")
def linear(flow: Flow, call: Call) -> Result:
    """Product of (..., in) with a weight of (out, in), plus a bias of (out,)."""
    x, weight = call.args[0], call.args[1]
    lead = tuple(range(len(x.shape) - 1))
    facets = flow.contract([Operand(x, (*lead, "in")), Operand(weight, ("out", "in"))], (*lead, "out"), "linear")
    return _add(flow, Value(call.shape, facets), call.argument(2, "bias"))


def _add(flow: Flow, product: Value, bias: Value | None) -> Value:
    if bias is None:
        return product
    return Value(product.shape, flow.elementwise([product, bias], product.shape))


def _matmul(flow: Flow, a: Value, b: Value, shape: tuple[int, ...]) -> Value:
    """Batched matrix product; vectors and broadcast batch dimensions as in torch.matmul."""
    a_letters: tuple[object, ...] = ("m", "k") if len(a.shape) > 1 else ("k",)
    b_letters: tuple[object, ...] = ("k", "n") if len(b.shape) > 1 else ("k",)
    depth = max(len(a.shape) - len(a_letters), len(b.shape) - len(b_letters))
    batch = tuple(range(depth))
    out = (*batch, *(letter for letter in ("m", "n") if letter in (*a_letters, *b_letters)))
    operands = [
        Operand(value, (*batch[depth - (len(value.shape) - len(letters)) :], *letters))
        for value, letters in ((a, a_letters), (b, b_letters))
    ]
    return Value(shape, flow.contract(operands, out, "matmul"))


@rule("aten.matmul", "aten.bmm", "aten.mm", "aten.mv", "aten.dot", "aten.vdot", "aten.linalg_matmul")
def matmul(flow: Flow, call: Call) -> Result:
    """Matrix products of two values."""
    return _matmul(flow, call.args[0], call.args[1], call.shape)


@rule("aten.addmm", "aten.baddbmm", "aten.addmv")
def add_matmul(flow: Flow, call: Call) -> Result:
    """A matrix product plus a bias."""
    return _add(flow, _matmul(flow, call.args[1], call.args[2], call.shape), call.args[0])


@rule("aten.bilinear")
def bilinear(flow: Flow, call: Call) -> Result:
    """Products of every channel of one value with every channel of another, with a weight of (out, in, in)."""
    a, b, weight = call.args[:3]
    lead = tuple(range(len(a.shape) - 1))
    operands = [Operand(weight, ("out", "a", "b")), Operand(a, (*lead, "a")), Operand(b, (*lead, "b"))]
    facets = flow.contract(operands, (*lead, "out"), "bilinear")
    return _add(flow, Value(call.shape, facets), call.argument(3, "bias"))


@rule("aten.scaled_dot_product_attention")
def attention(flow: Flow, call: Call) -> Result:
    """softmax(q k^T) v over (batch, heads, tokens, channels): whole heads stay together."""
    q, k, v = call.args[:3]
    mask = call.argument(3, "attn_mask")
    if call.node.kwargs.get("enable_gqa"):  # several heads of queries in a row share one of keys and values
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
    facets = flow.contract(
        [Operand(scores, (*heads, "q", "k")), Operand(v, (*third, "k", "c"))], (*lead, "q", "c"), "attention"
    )
    return Value(call.shape, facets)


def _repeat_heads(flow: Flow, value: Value, times: int) -> Value:
    """Each of the heads of (batch, heads, tokens, channels) several times in a row."""
    facets = [np.repeat(f, times, -3) if f.shape[-3] > 1 else f for f in flow.facets(value)]
    shape = (*value.shape[:-3], value.shape[-3] * times, *value.shape[-2:])
    return Value(shape, facets, origin=value.origin)
