"""Comparison of tensors up to rounding, such that an error in any small part is detected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Tolerance", "difference", "tensor_difference", "tolerance_of"]

Tolerance = tuple[float, float]
"""Tolerances relative to the largest number of the smallest slice around an element, and of the whole tensor."""

_TOLERANCES: dict[torch.dtype, Tolerance] = {
    torch.float64: (1e-6, 1e-11),
    torch.float32: (1e-2, 1e-4),
    torch.float16: (1e-1, 1e-2),
    torch.bfloat16: (1e-1, 3e-2),
}


def tolerance_of(dtypes: set[torch.dtype]) -> Tolerance:
    """The tolerance of numbers that were computed in several precisions, set by the lowest."""
    return max((_TOLERANCES[dtype] for dtype in dtypes if dtype in _TOLERANCES), default=_TOLERANCES[torch.float64])


def difference(got: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: Tolerance, dtypes: bool) -> str | None:
    """Text of an error in the outputs of a narrowed network, or None; with `dtypes`, dtypes must agree."""
    if len(got) != len(wanted):
        return f"its narrowed network returns {len(got)} tensors, the full one {len(wanted)}"
    for a, b in zip(got, wanted, strict=True):
        if a.shape != b.shape:
            return f"its narrowed network returns shape {tuple(a.shape)}, the full one {tuple(b.shape)}"
        if dtypes and a.dtype != b.dtype:
            return f"its narrowed network returns {a.dtype}, the full one {b.dtype}"
        text = tensor_difference(a, b, tolerance)
        if text is not None:
            return f"its narrowed network differs from the masked one by {text}"
    return None


def tensor_difference(got: Tensor, wanted: Tensor, tolerance: Tolerance) -> str | None:
    """Text of the difference of two tensors of one shape, or None if it is only rounding.

    Integers, booleans and the positions of NaN and infinity must be equal. The tolerance of any other element is
    relative to the largest number in the smallest slice around it, along any dimension. So a channel with small numbers
    is compared by its own size, even next to one with large numbers.
    """
    if not wanted.numel():
        return None
    got, wanted = (t.to_dense() if t.layout != torch.strided else t for t in (got, wanted))
    if got.is_complex() != wanted.is_complex():
        return "being complex"
    if got.is_complex():
        got, wanted = torch.view_as_real(got.resolve_conj()), torch.view_as_real(wanted.resolve_conj())
    if not (got.is_floating_point() and wanted.is_floating_point()):
        wrong = int((got != wanted).sum())
        return f"{wrong} of {wanted.numel()} integers" if wrong else None
    relative, floor = tolerance
    if bool((got - wanted).abs().amax() <= floor * wanted.abs().amax()):
        return None  # the usual case; False for NaN and infinity
    got, wanted = got.double(), wanted.double()
    error = (got - wanted).abs()
    finite = torch.isfinite(wanted)
    if not bool(finite.all()):
        same = torch.where(finite, torch.isfinite(got), (got == wanted) | (got.isnan() & wanted.isnan()))
        if not bool(same.all()):
            return f"the places of {int((~same).sum())} infinities or NaN"
        error, wanted = error.where(finite, 0), wanted.where(finite, 0)
    size = wanted.abs()
    scale = size.amax().expand_as(size)
    excess = error - floor * scale
    for dim in range(size.ndim):
        rest = [d for d in range(size.ndim) if d != dim]
        if size.shape[dim] > 1:
            scale = torch.minimum(scale, size.amax(rest, keepdim=True) if rest else size)
    excess = excess - relative * scale
    if bool((excess <= 0).all()):
        return None
    worst = int(excess.nan_to_num(torch.inf).argmax())
    return f"{float(error.flatten()[worst]):.2g} of {float(scale.flatten()[worst]):.2g}"
