"""Distances and losses: compare two values with the same channels position by position, and add up."""

from __future__ import annotations

import numpy as np

from anywidth.groups.flow import Flow
from anywidth.groups.operators.masked import always
from anywidth.groups.operators.ordering import whole
from anywidth.groups.operators.reduction import reduced
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Operand, Value

__all__: list[str] = []


def _broadcast(values: list[Value]) -> tuple[int, ...]:
    return tuple(np.broadcast_shapes(*(value.shape for value in values)))


@operator("aten.cosine_similarity", "aten.linalg_vecdot")
@operator("aten.pairwise_distance", "aten.dist", compacted=always)
def compared(flow: Flow, call: Call) -> Result:
    """Operators that compare vectors along one dimension, or all elements (`dist`)."""
    pair = list(call.args[:2])
    shape = _broadcast(pair)
    both = Value(shape, flow.elementwise(pair, shape))
    if "dist." in flow.operator and "pairwise" not in flow.operator:
        return reduced(flow, both, range(len(shape)), call.shape)
    dim = call.argument(2, "dim", 1) if "cosine" in flow.operator else call.kwargs.get("dim", -1)
    return reduced(flow, both, [dim], call.shape)


@operator("aten.cdist", "aten._euclidean_dist", "aten._cdist_forward")
def distances(flow: Flow, call: Call) -> Result:
    """Distances of every row of (..., n, channels) to every row of (..., m, channels)."""
    a, b = call.args[:2]
    lead = tuple(range(len(call.shape) - 2))
    operands = [
        Operand(value, (*lead[len(lead) - (len(value.shape) - 2) :], row, "c")) for value, row in ((a, "n"), (b, "m"))
    ]
    return Value(call.shape, flow.merge(operands, (*lead, "n", "m"))[0])


@operator("aten.pdist")
def own_distances(flow: Flow, call: Call) -> Result:
    """Distances between the rows of (n, channels)."""
    whole(flow, call.args[0], {0}, f"pairs of rows at {flow.where}")
    return None


@operator(
    "aten.mse_loss", "aten.l1_loss", "aten.smooth_l1_loss", "aten.huber_loss", "aten.kl_div", "aten.soft_margin_loss",
    "aten.binary_cross_entropy", "aten.binary_cross_entropy_with_logits", "aten.poisson_nll_loss", compacted=always,
)  # fmt: skip
def element_loss(flow: Flow, call: Call) -> Result:
    """Element-wise losses, averaged or summed unless there is no reduction."""
    values = call.values()
    shape = _broadcast(values)
    both = Value(shape, flow.elementwise(values, shape))
    return both if call.shape == shape and shape else reduced(flow, both, range(len(shape)), call.shape)


@operator(
    "aten.cross_entropy_loss", "aten.nll_loss", "aten.nll_loss_nd", "aten.nll_loss2d", "aten.ctc_loss",
    "aten.multi_margin_loss", "aten.multilabel_margin_loss", "aten.cosine_embedding_loss",
    "aten.hinge_embedding_loss", "aten.margin_ranking_loss", "aten.triplet_margin_loss",
    "aten.multilabel_soft_margin_loss",
)  # fmt: skip
def class_loss(flow: Flow, call: Call) -> Result:
    """Losses over classes, which are not channels that can be dropped."""
    for value in call.values():
        flow.freeze(value, f"classes of a loss at {flow.where}")
    return None
