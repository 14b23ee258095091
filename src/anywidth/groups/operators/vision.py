"""Operators on (batch, channels, *positions) with computed positions: torchvision's, unpooling, sampling."""

from __future__ import annotations

import math

import numpy as np

from anywidth.groups.flow import Flow
from anywidth.groups.operators.convolution_matmul import convolve
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Operand, Value

__all__: list[str] = []


@operator("torchvision.deform_conv2d")
def deformable_convolution(flow: Flow, call: Call) -> Result:
    """`(x, weight, offset, mask, bias, stride, stride, pad, pad, dilation, dilation, groups, offset_groups, use_mask)`.

    Every group of offsets moves a block of channels; all blocks keep the same number of channels.
    """
    x, weight, offset, mask, bias = call.args[:5]
    groups, blocks = call.args[11], call.args[12]
    for value in (offset, mask):
        flow.freeze(value, f"offsets of positions at {flow.where}")
    channels = flow.along(x, 1)
    if channels is not None and blocks > 1:
        flow.labels.tie(channels.reshape(blocks, -1), {0}, flow.where)
    return convolve(flow, call, (x, weight, bias), groups, transposed=False)


@operator("torchvision.roi_align", "torchvision.roi_pool")
def regions(flow: Flow, call: Call) -> Result:
    """`(x, boxes, ...)` to (boxes, channels, height, width)."""
    x, boxes = call.args[:2]
    flow.freeze(boxes, f"corners of boxes at {flow.where}")
    flow.freeze(x, f"positions at {flow.where}", dims=(0, 2, 3))
    label_arrays = [f for f in flow.label_arrays(x) if f.size == f.shape[1]]
    results = [Value(shape, label_arrays) for shape in call.shapes]
    return results[0] if len(results) == 1 else results


@operator("torchvision.ps_roi_align", "torchvision.ps_roi_pool")
def position_sensitive_regions(flow: Flow, call: Call) -> Result:
    """`(x, boxes, ...)`: each place inside a box reads different channels, (channels * height * width) in total."""
    x, boxes = call.args[:2]
    flow.freeze(boxes, f"corners of boxes at {flow.where}")
    flow.freeze(x, f"positions at {flow.where}", dims=(0, 2, 3))
    vector = flow.along(x, 1)
    if vector is None:
        return [Value(shape) for shape in call.shapes]
    tied = flow.labels.tie(vector.reshape(call.shape[1], -1), {1}, flow.where)
    return [Value(shape, [tied.reshape(1, -1, 1, 1)]) for shape in call.shapes]


@operator("torchvision.nms")
def suppression(flow: Flow, call: Call) -> Result:
    """The remaining boxes, whose number depends on values."""
    for value in call.values():
        flow.freeze(value, f"corners of boxes at {flow.where}")
    return None


@operator(
    "aten.max_unpool2d", "aten.max_unpool3d", "aten.grid_sampler_2d", "aten.grid_sampler_3d", "aten.grid_sampler",
)  # fmt: skip
def placed(flow: Flow, call: Call) -> Result:
    """Values written to or read from positions in a second tensor; its channels, if any, are the same."""
    x, where = call.args[:2]
    by_channel = "unpool" in flow.operator
    lead = len(x.shape) - (int(flow.operator.split("pool")[1][0]) if by_channel else len(x.shape) - 2)
    for value in (x, where):
        first = lead if value is x or by_channel else 1
        flow.freeze(value, f"positions at {flow.where}", dims=range(first, len(value.shape)))
    names = tuple(range(lead))
    there = names if by_channel else names[:1]
    operands = []
    for value, kept in ((x, names), (where, there)):
        label_arrays = [
            f.reshape(f.shape[: len(kept)]) for f in flow.label_arrays(value) if math.prod(f.shape[len(kept) :]) == 1
        ]
        shape = value.shape[: len(kept)]
        operands.append(
            Operand(Value(shape, label_arrays, origin=value.origin, shape_follows=value.shape_follows), kept)
        )
    label_arrays = flow.merge(operands, names)[0]
    return Value(call.shape, [f.reshape([*f.shape, *[1] * (len(call.shape) - lead)]) for f in label_arrays])


@operator("aten.affine_grid_generator")
def grid(flow: Flow, call: Call) -> Result:
    """Grid positions transformed by an affine map per sample."""
    flow.freeze(call.args[0], f"affine maps at {flow.where}")
    return None


@operator("aten.fractional_max_pool2d", "aten.fractional_max_pool3d")
def fractional(flow: Flow, call: Call) -> Result:
    """Pooling with random sizes: `(x, kernel, output, samples)` with samples of (batch, channels, dimensions)."""
    x, samples = call.args[0], call.args[3]
    flow.freeze(x, f"positions at {flow.where}", dims=range(2, len(x.shape)))
    shape = x.shape[:2]
    pair = [
        Value(
            shape,
            [f.reshape(f.shape[:2]) for f in flow.label_arrays(v) if math.prod(f.shape[2:]) == 1],
            shape_follows=v.shape_follows,
        )
        for v in (x, samples)
    ]
    label_arrays = flow.elementwise(pair, shape)
    return [Value(s, [f.reshape([*f.shape, *[1] * (len(s) - 2)]) for f in label_arrays]) for s in call.shapes]


@operator("aten.conv_tbc")
def steps_first(flow: Flow, call: Call) -> Result:
    """Convolution of (steps, batch, in) with a weight of (kernel, in, out) and a bias of (out,)."""
    x, weight, bias = call.args[:3]
    flow.freeze(x, f"steps at {flow.where}", dims=(0, 1))
    flow.freeze(weight, "kernel size", dims=(0,))
    inward, outward = flow.along(weight, 1), flow.along(weight, 2)
    flow.require_equal(flow.along(x, 2), inward, x.origin)
    flow.require_equal(outward, flow.along(bias, 0), weight.origin)
    macs = call.shape[0] * call.shape[1] * math.prod(weight.shape)
    flow.record("conv", macs, [v for v in (inward, outward) if v is not None], weight.weight, (2,))
    return Value(call.shape, [] if outward is None else [np.reshape(outward, (1, 1, -1))])
