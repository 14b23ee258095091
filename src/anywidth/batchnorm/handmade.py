"""Moments of batch norms that are not modules of torch: calls of `F.batch_norm` with buffers of a module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from anywidth.batchnorm.moments import Moments
from anywidth.core.errors import AnywidthError

__all__ = ["collecting_handmade"]

_CALLS = {
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    torch.batch_norm: (
        "input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled",
    ),
}  # fmt: skip


class _Measure(TorchFunctionMode):
    """Makes batch norms on given buffers normalize by each batch, and records its moments."""

    def __init__(self, moments: dict[int, Moments]) -> None:
        super().__init__()
        self.moments = moments

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = _CALLS.get(func)
        if names is None:
            return func(*args, **(kwargs or {}))
        given = {**dict(zip(names, args, strict=False)), **(kwargs or {})}
        moments = self.moments.get(_place(given.get("running_mean")))
        if moments is not None:
            mean, variance = moments.row(given["input"])
            # With momentum 1 the kernel leaves exactly this batch's moments in the running buffers.
            given |= {"running_mean": mean, "running_var": variance, "training": True, "momentum": 1.0}
        return func(**given) if func is F.batch_norm else func(*(given[name] for name in names))


def _place(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.untyped_storage()._cdata


@contextmanager
def collecting_handmade(
    subnet: nn.Module, pairs: Sequence[tuple[str, str]], momentum: float | None = None
) -> Iterator[dict[tuple[str, str], Moments]]:
    """Context manager that collects the moments of batch norms by the names of their running mean and variance.

    Raises:
        AnywidthError: at the end, if the forward in evaluation mode does not pass these buffers to `F.batch_norm`.
    """
    own = dict(subnet.named_buffers(remove_duplicate=False))
    moments = {pair: Moments.of(own[pair[0]], own[pair[1]], momentum) for pair in pairs}
    if not pairs:
        yield moments
        return
    with _Measure({_place(own[mean]): moments[mean, variance] for mean, variance in pairs}):
        yield moments
    for (mean, _), found in moments.items():
        if not found.seen:
            raise AnywidthError(
                f"{mean} is the running mean of a batch norm in training, but in evaluation mode the forward does not "
                "pass it to F.batch_norm, so it cannot be calibrated: call F.batch_norm there too, or use "
                "nn.BatchNorm1d, 2d or 3d"
            )
