"""Fake quantization (training with int8 rounding), with scales and zero points per tensor or per channel."""

from __future__ import annotations

from anywidth.groups.flow import Flow
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Operand, Value

__all__: list[str] = []


@operator(
    "aten.fake_quantize_per_tensor_affine", "aten.fake_quantize_per_tensor_affine_cachemask",
    "aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "aten._fake_quantize_learnable_per_tensor_affine",
)  # fmt: skip
def per_tensor(flow: Flow, call: Call) -> Result:
    """One scale and zero point for all channels."""
    x = call.args[0]
    results = [Value(shape, flow.label_arrays(x), origin=x.origin) for shape in call.shapes]
    return results[0] if len(results) == 1 else results


@operator(
    "aten.fake_quantize_per_channel_affine", "aten.fake_quantize_per_channel_affine_cachemask",
    "aten._fake_quantize_learnable_per_channel_affine",
)  # fmt: skip
def per_channel(flow: Flow, call: Call) -> Result:
    """`(x, scale, zero_point, axis, ...)`: scales and zero points follow the channels of one dimension."""
    x, axis = call.args[0], call.args[3] % len(call.args[0].shape)
    axis_names = tuple(range(len(x.shape)))
    vectors = [Operand(value, (axis,)) for value in call.args[1:3] if isinstance(value, Value) and value.shape]
    label_arrays = flow.merge([Operand(x, axis_names), *vectors], axis_names)[0]
    results = [Value(shape, label_arrays) for shape in call.shapes]
    return results[0] if len(results) == 1 else results


@operator("aten.fused_moving_avg_obs_fake_quant", "aten._fused_moving_avg_obs_fq_helper")
def observed(flow: Flow, call: Call) -> Result:
    """Fake quantization that updates the observed range: (x, on, on, min, max, scale, zero_point, c, q, q, axis)."""
    x, axis = call.args[0], call.args[10] % len(call.args[0].shape)
    each = call.argument(11, "per_row_fake_quant", False)
    axis_names = tuple(range(len(x.shape)))
    vectors = [Operand(value, (axis,)) for value in call.args[3:7] if each and value.shape == (x.shape[axis],)]
    label_arrays = flow.merge([Operand(x, axis_names), *vectors], axis_names)[0]
    results = [Value(shape, label_arrays) for shape in call.shapes]
    return results[0] if len(results) == 1 else results
