"""Recurrent layers: the channels of the state are narrowed together in all gates, directions and layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from anywidth.groups.flow import Flow
from anywidth.groups.labels import Array
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Value

__all__: list[str] = []


@operator("aten.lstm", "aten.gru", "aten.rnn_tanh", "aten.rnn_relu")
def recurrent(flow: Flow, call: Call) -> Result:
    """Recurrent layers on (steps, batch, in) or (batch, steps, in).

    Weights have the shapes (gates * state, in) and (gates * state, state), biases (gates * state,). Zeros in the state
    stay zero, because a channel with zero weights has a zero candidate. Packed sequences and projections stay whole:
    PyTorch detects a projection by its size, which would have to differ from the state's at every width.
    """
    if not flow.operator.endswith(".input"):
        return _whole(flow, call, call.args[3], "packed sequences")
    x, states, weights, biases, layers = call.args[:5]
    directions, every = (2 if call.args[7] else 1), (4 if biases else 2)
    if len(weights) != every * layers * directions:
        return _whole(flow, call, weights, "projected states")
    flow.freeze(x, f"steps of {flow.where}", dims=range(len(x.shape) - 1))
    states = states if isinstance(states, (list, tuple)) else [states]
    size = states[0].shape[-1]
    state: Array | None = None
    inward = entering = flow.along(x, -1)
    for number in range(layers * directions):
        chunk = weights[number * every : (number + 1) * every]
        if number and number % directions == 0:
            inward = None if state is None else np.tile(state, directions)
        for weight in chunk:
            rows = flow.along(weight, 0)
            if rows is not None:
                rows = flow.labels.tie(rows.reshape(-1, size), {0}, flow.where).reshape(-1)
                state = rows if state is None else state
            flow.require_equal(state, rows, weight.origin)
        flow.require_equal(state, flow.along(chunk[1], 1), chunk[1].origin)
        columns = flow.along(chunk[0], 1)
        flow.require_equal(inward, columns, x.origin)
        for weight, read in ((chunk[0], columns), (chunk[1], state)):
            macs = math.prod(x.shape[:-1]) * math.prod(weight.shape)
            flow.record("recurrent", macs, [v for v in (state, read) if v is not None], weight.weight, (0,))
    _require_equal_states(flow, state, states)
    flow.number(size, state, "hidden_size")
    flow.number(x.shape[-1], entering, "input_size")
    last = [None if state is None else np.tile(state, directions), *([state] * len(states))]
    return [
        Value(shape, [] if v is None else [v.reshape([1] * (len(shape) - 1) + [-1])])
        for shape, v in zip(call.shapes, last, strict=True)
    ]


def _whole(flow: Flow, call: Call, weights: Sequence[Value], what: str) -> Result:
    """Layers that cannot be narrowed: counted and frozen."""
    for value in call.values():
        flow.freeze(value, f"{what} at {flow.where}")
    steps = math.prod(call.args[0].shape[:-1])
    for weight in weights:
        if len(weight.shape) == 2:
            flow.record("recurrent", steps * math.prod(weight.shape), [], weight.weight, (0,))
    return None


def _require_equal_states(flow: Flow, state: Array | None, states: Sequence[Value]) -> None:
    """Tie the channels of initial states to those of the weights; zeros that the forward creates follow them."""
    for value in states:
        last = len(value.shape) - 1
        if state is not None and last in value.follows:
            flow.labels.union(state, value.follows[last], flow.where)
        elif not value.shape_follows:
            flow.require_equal(state, flow.along(value, -1), value.origin)


@operator("aten.lstm_cell", "aten.gru_cell", "aten.rnn_tanh_cell", "aten.rnn_relu_cell")
def cell(flow: Flow, call: Call) -> Result:
    """One step on (batch, in), with weights and biases as in the layers, for forwards with an explicit loop."""
    x, states, inner, again = call.args[:4]
    states = states if isinstance(states, (list, tuple)) else [states]
    size = again.shape[-1]
    state = flow.along(again, -1)
    for value in (inner, again, *(v for v in call.args[4:6] if isinstance(v, Value))):
        rows = flow.along(value, 0)
        if rows is not None:
            rows = flow.labels.tie(rows.reshape(-1, size), {0}, flow.where).reshape(-1)
        flow.require_equal(state, rows, value.origin)
    columns = flow.along(inner, -1)
    if not x.shape_follows:
        flow.require_equal(flow.along(x, -1), columns, x.origin)
    _require_equal_states(flow, state, states)
    for weight, read in ((inner, columns), (again, state)):
        macs = math.prod(x.shape[:-1]) * math.prod(weight.shape)
        flow.record("recurrent", macs, [v for v in (state, read) if v is not None], weight.weight, (0,))
    flow.number(size, state, "hidden_size")
    flow.number(x.shape[-1], columns, "input_size")
    label_arrays = [] if state is None else [state.reshape([1] * (len(call.shape) - 1) + [-1])]
    results = [Value(shape, label_arrays) for shape in call.shapes]
    return results[0] if len(results) == 1 else results
