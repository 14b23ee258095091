"""Element-wise operators: a channel dropped in one operand is dropped in all."""

from __future__ import annotations

from anywidth.groups.flow import Flow
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Operand, Value

__all__ = ["pointwise"]

_LONGEST = 1 << 16
"""Longer dimensions are positions, not channels."""


_FORMS = (
    "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout", "rrelu",
    "rrelu_", "rrelu_with_noise", "rrelu_with_noise_functional", "bernoulli", "normal", "normal_",
    "uniform_", "exponential_", "geometric_", "log_normal_", "cauchy_", "random_", "poisson", "binomial",
    "_standard_gamma", "copy", "copy_", "fill_", "zero_", "where", "masked_fill", "masked_fill_",
    "complex", "polar", "lerp", "addcmul", "addcdiv", "isclose", "isin", "isreal", "rsub", "_add_relu", "_prelu_kernel",
)  # fmt: skip
_ALIASES = (
    "absolute", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctan2", "arctanh", "divide", "multiply",
    "subtract", "true_divide", "floor_divide", "negative", "greater", "greater_equal", "less", "less_equal",
    "not_equal", "fix", "special_digamma", "special_erf", "special_erfc", "special_erfinv", "special_exp2",
    "special_expit", "special_expm1", "special_gammainc", "special_gammaincc", "special_gammaln", "special_i0",
    "special_log1p", "special_logit", "special_multigammaln", "special_ndtr", "special_polygamma", "special_psi",
    "special_round", "special_sinc", "special_xlogy", "__and__", "__or__", "__xor__", "__lshift__", "__rshift__",
    "__iand__", "__ior__", "__ixor__",
)  # fmt: skip
_UNTAGGED = (
    "mish_", "log_sigmoid", "log_sigmoid_forward", "celu_", "selu_", "softshrink",
    "hardshrink", "clamp_", "leaky_relu", "leaky_relu_", "elu_",
)  # fmt: skip


@operator(
    "aten.dropout", "aten.dropout_", "aten.hardswish", "aten.hardswish_", "aten.hardtanh_", "aten.hardsigmoid_",
    "aten.add", "aten.gelu", "aten.hardsigmoid", "aten.hardtanh", "aten.mul", "aten.relu", "aten.sigmoid",
    "aten.silu", "aten.sub", "aten.tanh", adds_up=False, per_channel=True,
)  # fmt: skip
@operator("unlisted pointwise", adds_up=False)
@operator(*(f"aten.{name}" for name in _FORMS + _ALIASES + _UNTAGGED), adds_up=False)
@operator("aten.bernoulli_", adds_up=False, shape_follows=True)
def pointwise(flow: Flow, call: Call) -> Result:
    """Element-wise operators, including unlisted ones that ATen tags as such."""
    values = call.values()
    label_arrays = flow.elementwise(values, call.shape)
    return Value(
        call.shape,
        label_arrays,
        shape_follows=all(v.shape_follows for v in values),
        follows=flow.carried(values, call.shape),
    )


@operator("aten.to", "aten._to_copy", "aten.lift_fresh_copy", adds_up=False, shape_follows=True)
@operator("aten.contiguous", "aten.clone", adds_up=False, free=True, shape_follows=True, per_channel=True)
@operator("aten.detach", adds_up=False, shape_follows=True, view=True, per_channel=True)
@operator("aten.detach_", adds_up=False, shape_follows=True, per_channel=True)
@operator("aten.alias", adds_up=False, view=True)
@operator(
    "aten.zeros_like", "aten.ones_like", "aten.empty_like", "aten.rand_like", "aten.randn_like", "aten.full_like",
    "aten.lift_fresh", "aten.renorm", "aten.randint_like", "aten.type_as", adds_up=False,
)  # fmt: skip
def same(flow: Flow, call: Call) -> Result:
    """Copies and casts: the labels of the first operand."""
    first = call.values()[0]
    if first.shape != call.shape:
        flow.freeze(first)
        return None
    return Value(call.shape, flow.label_arrays(first), origin=first.origin, follows=dict(first.follows))


@operator(
    "aten.zeros", "aten.ones", "aten.empty", "aten.full", "aten.arange", "aten.rand", "aten.randn", "aten.eye",
    "aten.randint", "aten.randperm", "aten.normal.float_float", "aten.tril_indices", "aten.triu_indices",
    "aten.logspace", "aten.hann_window", "aten.hamming_window", "aten.bartlett_window", "aten.blackman_window",
    "aten.kaiser_window", "aten.fft_fftfreq", "aten.fft_rfftfreq", "aten.range", "aten.linspace", "aten.new_zeros",
    "aten.new_ones", "aten.new_empty", "aten.new_full", "aten.scalar_tensor", "aten.tensor", "aten._assert_async",
    "aten._functional_assert_async", "aten._assert_scalar", "aten.new_empty_strided", adds_up=False,
)  # fmt: skip
@operator("aten.sym_size", "aten._assert_tensor_metadata", adds_up=False, free=True)
def created(flow: Flow, call: Call) -> Result:
    """Tensors that the forward creates: they follow what they meet, and so do the numbers that set their sizes."""
    made = [Value(shape, origin="a tensor made in the forward", shape_follows=True) for shape in call.shapes]
    sizes = next((list(arg) for arg in call.args[:3] if isinstance(arg, (list, tuple))), list(call.shape))
    if len(made) == 1 and len(sizes) == len(call.shape):
        made[0].follows = {d: flow.labels.fresh(size) for d, size in enumerate(call.shape) if 1 < size <= _LONGEST}
        flow.sizes(made[0], sizes)
    return made


@operator("aten.prelu", adds_up=False)
def prelu(flow: Flow, call: Call) -> Result:
    """PReLU: one slope, or one per channel (dimension 1)."""
    x, weight = call.args
    if weight.shape[-1:] == (1,) or not weight.shape:
        return Value(call.shape, flow.label_arrays(x))
    axis_names = tuple(range(len(x.shape)))
    label_arrays = flow.merge([Operand(x, axis_names), Operand(weight, (1 if len(x.shape) > 1 else 0,))], axis_names)[0]
    return Value(call.shape, label_arrays)


@operator("aten.glu", adds_up=False)
def glu(flow: Flow, call: Call) -> Result:
    """Gated linear unit: position j of the first half is tied to position j of the second."""
    x = call.args[0]
    dim = call.argument(1, "dim", -1) % len(x.shape)
    half = x.shape[dim] // 2
    label_arrays = []
    for label_array in flow.label_arrays(x):
        if label_array.shape[dim] > 1:
            first, second = label_array.take(range(half), dim), label_array.take(range(half, 2 * half), dim)
            flow.labels.union(first, second, flow.where)
            label_array = first
        label_arrays.append(label_array)
    return Value(call.shape, label_arrays)
