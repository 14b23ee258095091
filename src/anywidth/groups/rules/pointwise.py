"""Operators that work on every element alone: what is dropped in one operand is dropped in all."""

from __future__ import annotations

from anywidth.groups.flow import Flow, Operand, Value
from anywidth.groups.rules.registry import Call, Result, rule

__all__ = ["pointwise"]


@rule(
    "aten.hardswish_", "aten.dropout", "aten.dropout_", "aten.bernoulli_", "aten.mish_", "aten.log_sigmoid",
    "aten.copy_", "aten.feature_dropout", "aten.alpha_dropout", "aten.feature_alpha_dropout", "aten.native_dropout",
    "aten.hardswish", "aten.rrelu", "aten.rrelu_", "aten.celu_", "aten.selu_", "aten.normal_", "aten.uniform_",
    "aten.fill_", "aten.zero_", "aten.softshrink", "aten.hardshrink", "aten.where", "aten.masked_fill",
    "aten.masked_fill_", "aten.clamp_", "aten.addcmul", "aten.addcdiv", "aten.lerp",
    # PyTorch 2.11 does not tag these yet.
    "aten.hardtanh_", "aten.leaky_relu", "aten.leaky_relu_", "aten.elu_", "aten.hardsigmoid_",
)  # fmt: skip
def pointwise(flow: Flow, call: Call) -> Result:
    """Element-wise operators; those that ATen tags as such come here without being listed."""
    values = call.values()
    loose = all(value.loose for value in values)
    made = tuple(dict.fromkeys(each for value in values for each in value.made)) if loose else ()
    return Value(call.shape, flow.elementwise(values, call.shape), loose=loose, made=made)


@rule(
    "aten.to", "aten._to_copy", "aten.contiguous", "aten.clone", "aten.detach", "aten.detach_", "aten.alias",
    "aten.zeros_like", "aten.ones_like", "aten.empty_like", "aten.rand_like", "aten.randn_like", "aten.full_like",
    "aten.lift_fresh_copy", "aten.type_as",
)  # fmt: skip
def same(flow: Flow, call: Call) -> Result:
    """Copies and casts: the labels of the first operand."""
    first = call.values()[0]
    if first.shape != call.shape:
        flow.freeze(first)
        return None
    return Value(call.shape, flow.facets(first), origin=first.origin)


@rule(
    "aten.zeros", "aten.ones", "aten.empty", "aten.full", "aten.arange", "aten.rand", "aten.randn", "aten.eye",
    "aten.linspace", "aten.new_zeros", "aten.new_ones", "aten.new_empty", "aten.new_full", "aten.scalar_tensor",
    "aten.tensor", "aten.sym_size", "aten._assert_tensor_metadata", "aten.meshgrid", "aten.new_empty_strided",
)  # fmt: skip
def created(flow: Flow, call: Call) -> Result:
    """Tensors that the forward makes: they carry no labels."""
    origin = "a tensor made in the forward"
    return [Value(shape, origin=origin, loose=True, made=((flow.module, shape),)) for shape in call.shapes]


@rule("aten.prelu")
def prelu(flow: Flow, call: Call) -> Result:
    """PReLU: one slope, or one per channel (dimension 1)."""
    x, weight = call.args
    if weight.shape[-1:] == (1,) or not weight.shape:
        return Value(call.shape, flow.facets(x))
    letters = tuple(range(len(x.shape)))
    facets = flow.merge([Operand(x, letters), Operand(weight, (1 if len(x.shape) > 1 else 0,))], letters)[0]
    return Value(call.shape, facets)


@rule("aten.glu")
def glu(flow: Flow, call: Call) -> Result:
    """Gated linear unit: position j of the first half belongs with position j of the second."""
    x = call.args[0]
    dim = call.argument(1, "dim", -1) % len(x.shape)
    half = x.shape[dim] // 2
    facets = []
    for facet in flow.facets(x):
        if facet.shape[dim] > 1:
            first, second = facet.take(range(half), dim), facet.take(range(half, 2 * half), dim)
            flow.labels.union(first, second, flow.where)
            facet = first
        facets.append(facet)
    return Value(call.shape, facets)
