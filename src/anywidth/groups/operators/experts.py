"""Mixtures of experts: every token is multiplied by the weight of the expert that it was sent to."""

from __future__ import annotations

from anywidth.groups.flow import Flow
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Operand, Value

__all__: list[str] = []


@operator("transformers.grouped_mm_fallback", "aten._grouped_mm")
def grouped_product(flow: Flow, call: Call) -> Result:
    """Rows (tokens, in), sorted by expert, times the weights (experts, in, out) of their experts.

    All experts keep the same channels. Each row is multiplied by one weight, regardless of the number of experts.
    """
    x, weight = call.args[:2]
    if (len(x.shape), len(weight.shape)) != (2, 3):
        for value in call.values():
            flow.freeze(value, f"rows and weights of {len(x.shape)} and {len(weight.shape)} dimensions at {flow.where}")
        return None
    flow.freeze(weight, f"experts are chosen by their number at {flow.where}", dims=[0])
    operands = [Operand(x, ("row", "in")), Operand(weight, ("expert", "in", "out"))]
    label_arrays, summed = flow.merge(operands, ("row", "out"))
    source, stored = weight.source, call.node.args[1]
    name = source.tensor if source is not None and len(source.shape) == 3 else None
    swapped = "transpose" in str(getattr(stored, "target", ""))  # layers keep their weights as (experts, out, in)
    macs = x.shape[0] * x.shape[1] * weight.shape[2]
    flow.record("matmul", macs, [*label_arrays, *summed], name, (1 if swapped else 2,))
    return Value(call.shape, label_arrays)
