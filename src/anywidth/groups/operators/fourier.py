"""Fourier transforms, which mix all positions of a dimension, and complex numbers as pairs."""

from __future__ import annotations

import numpy as np

from anywidth.groups.flow import Flow
from anywidth.groups.operators.ordering import whole
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Value

__all__: list[str] = []

_ONE = ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")


@operator(*(f"aten.fft_{name}{n}" for name in _ONE for n in ("", "2", "n")))
def transform(flow: Flow, call: Call) -> Result:
    """`fft(x, n, dim)`, and transforms over several dimensions, `fft2(x, s, dims)`."""
    x = call.args[0]
    name = flow.operator.split(".")[1]
    dims = call.argument(2, "dim", {"2": [-2, -1], "n": None}.get(name[-1], -1))
    if dims is None:
        sizes = call.argument(1, "s")
        dims = list(range(len(x.shape)))[-len(sizes) :] if sizes else list(range(len(x.shape)))
    over = {d % len(x.shape) for d in ([dims] if isinstance(dims, int) else dims)}
    return _without(whole(flow, x, over, f"its channels are mixed at {flow.where}"), over, call.shape)


def _without(value: Value, dims: set[int], shape: tuple[int, ...]) -> Value:
    """The labels that do not depend on `dims`, whose sizes may change."""
    return Value(shape, [f for f in value.label_arrays if all(f.shape[dim] == 1 for dim in dims)], origin=value.origin)


@operator("aten.fft_fftshift", "aten.fft_ifftshift")
def shift(flow: Flow, call: Call) -> Result:
    """Cyclic shifts by half the size."""
    x, dims = call.args[0], call.argument(1, "dim")
    dims = range(len(x.shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    return whole(flow, x, {d % len(x.shape) for d in dims}, f"shifted at {flow.where}")


@operator("aten.stft", "aten.istft")
def short_time(flow: Flow, call: Call) -> Result:
    """Transforms of windows of signals (batch, time)."""
    for value in call.values():
        flow.freeze(value, f"steps in time at {flow.where}")
    return None


@operator("aten.view_as_real", "aten.view_as_complex")
def pairs(flow: Flow, call: Call) -> Result:
    """Add or remove a last dimension of real and imaginary parts."""
    x = call.args[0]
    if "real" in flow.operator:
        return Value(
            call.shape,
            [np.expand_dims(f, -1) for f in flow.label_arrays(x)],
            origin=x.origin,
            shape_follows=x.shape_follows,
        )
    kept = whole(flow, x, {len(x.shape) - 1}, f"real and imaginary parts at {flow.where}")
    return Value(
        call.shape,
        [f.take([0], -1).reshape(f.shape[:-1]) for f in kept.label_arrays],
        origin=x.origin,
        shape_follows=x.shape_follows,
    )


@operator(
    "aten.real", "aten.imag", "aten.conj", "aten._conj", "aten.resolve_conj", "aten.resolve_neg",
    "aten.conj_physical",
)  # fmt: skip
def part(flow: Flow, call: Call) -> Result:
    """One part of every complex number."""
    x = call.args[0]
    return Value(
        call.shape, flow.label_arrays(x), origin=x.origin, shape_follows=x.shape_follows, follows=dict(x.follows)
    )
