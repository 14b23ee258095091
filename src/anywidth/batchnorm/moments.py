"""Moments of the inputs of norm layers, collected while a network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from anywidth.core.modules import module_modes
from anywidth.core.processes import all_gather
from anywidth.supernet.own_buffers import stubborn

__all__ = ["Moments", "collecting"]

_FOLD = 32


class Moments:
    """Pooled count, mean and variance of the batches of one norm layer.

    The layer's kernel writes the moments of each batch to one row of the running buffers. With a `momentum`, they are
    moving averages as in training, which start at 0 and 1.
    """

    def __init__(self, norm: _NormBase, momentum: float | None = None) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self._start(norm.running_mean, norm.running_var, momentum, instance=isinstance(norm, _InstanceNorm))

    @classmethod
    def of(cls, mean: Tensor, variance: Tensor, momentum: float | None = None) -> Moments:
        """Moments for a batch norm with this running mean and variance."""
        moments = cls.__new__(cls)
        moments._start(mean, variance, momentum, instance=False)
        return moments

    def _start(self, running_mean: Tensor, running_var: Tensor, momentum: float | None, *, instance: bool) -> None:
        self.instance = instance
        self.momentum = momentum
        self.count = 0.0
        self.mean: Tensor | None = None
        self.square: Tensor | None = None
        self._counts: list[int] = []
        self._means = running_mean.new_zeros(_FOLD, *running_mean.shape)
        self._variances = running_var.new_ones(_FOLD, *running_var.shape)
        self._rows = list(zip(self._means, self._variances, strict=True))

    @property
    def seen(self) -> bool:
        """Whether a batch was recorded."""
        return self.mean is not None or bool(self._counts)

    def row(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rows to which to write the mean and unbiased variance of this batch."""
        if len(self._counts) == _FOLD:
            self._fold()
        self._counts.append(x.numel() // x.shape[1] if x.ndim > 1 else x.shape[0])
        return self._rows[len(self._counts) - 1]

    def _fold(self) -> None:
        rows = len(self._counts)
        if not rows:
            return
        counts = torch.tensor(self._counts, dtype=torch.float64)
        weights = counts.to(self._means.device).unsqueeze(1)
        means, variances = self._means[:rows].double(), self._variances[:rows].double()
        self._counts = []
        if self.momentum is not None:
            self._average(means, variances, self.momentum)
            return
        total = float(counts.sum())
        mean = (weights * means).sum(0) / total
        within = (variances * (weights if self.instance else weights - 1)).sum(0)
        between = torch.zeros_like(within) if self.instance else (weights * (means - mean).square()).sum(0)
        self._merge(total, mean, within + between)

    def _merge(self, total: float, mean: Tensor, square: Tensor) -> None:
        if self.mean is None or self.square is None:
            self.count, self.mean, self.square = total, mean, square
            return
        count = self.count + total
        shift = mean - self.mean
        self.square += square
        if not self.instance:
            self.square += shift.square() * (self.count * total / count)
        self.mean += shift * (total / count)
        self.count = count

    def _average(self, means: Tensor, variances: Tensor, momentum: float) -> None:
        if self.mean is None or self.square is None:
            self.count, self.mean, self.square = 1.0, torch.zeros_like(means[0]), torch.ones_like(variances[0])
        for mean, variance in zip(means, variances, strict=True):
            self.mean += momentum * (mean - self.mean)
            self.square += momentum * (variance - self.square)

    def pool(self) -> None:
        """Add the moments of the same layer in all other processes."""
        self._fold()
        assert self.mean is not None
        assert self.square is not None
        parts = all_gather((self.count, self.mean.cpu(), self.square.cpu()))
        device = self.mean.device
        self.mean = self.square = None
        for count, mean, square in parts:  # in a fixed order, so that all processes get the same numbers
            self._merge(count, mean.to(device), square.to(device))

    def result(self, *, unbiased: bool = True) -> tuple[Tensor, Tensor]:
        """Mean and variance (unbiased, as batch norms store it) over all batches."""
        self._fold()
        assert self.mean is not None
        assert self.square is not None
        divisor = max(self.count - 1, 1) if unbiased and not self.instance else self.count
        return self.mean, self.square / divisor


@contextmanager
def collecting(
    subnet: nn.Module, norms: Sequence[_NormBase], momentum: float | None = None
) -> Iterator[dict[_NormBase, Moments]]:
    """Context manager in which forward passes of `subnet` collect the moments of `norms`.

    Norm layers that were not called are not in the dictionary afterwards. All other state is restored.
    """
    moments = {norm: Moments(norm, momentum) for norm in norms}
    kept = [(n, n.momentum, n.track_running_stats, n.running_mean, n.running_var, n.num_batches_tracked) for n in norms]
    own_forward = {norm: norm.__dict__.get("forward") for norm in norms}
    try:
        with module_modes(subnet, False):
            for norm in norms:
                # With momentum 1 the kernel leaves exactly this batch's moments in the running buffers.
                norm.momentum, norm.track_running_stats = 1.0, True
                # Counting batches takes as long as a small kernel, but the user's forward may rely on the counter.
                norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked) if stubborn(norm) else None  # type: ignore[arg-type]
                norm.training = True
                # A hook would use the slow path of nn.Module, which matters at small widths.
                norm.forward = _into_rows(norm, moments[norm])
            yield moments
        for norm in norms:
            if not moments[norm].seen:
                del moments[norm]
    finally:
        for norm, momentum, track, mean, variance, batches in kept:
            norm.__dict__.pop("forward", None)
            if (own := own_forward[norm]) is not None:
                norm.forward = own
            norm.momentum, norm.track_running_stats = momentum, track
            norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, variance, batches


def _into_rows(norm: _NormBase, moments: Moments) -> Callable[..., Tensor]:
    """The forward of a norm layer, with separate running buffers for each batch."""
    # Processes pool their moments at the end; pooling per batch would hang if one has fewer batches.
    forward = MethodType(_BatchNorm.forward, norm) if isinstance(norm, nn.SyncBatchNorm) else norm.forward
    buffers = norm._buffers

    def measured(*args: Any, **kwargs: Any) -> Tensor:
        buffers["running_mean"], buffers["running_var"] = moments.row(args[0] if args else kwargs["input"])
        return forward(*args, **kwargs)

    return measured
