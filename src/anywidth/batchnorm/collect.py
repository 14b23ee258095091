"""The calibration pass: run a network over training images and collect the moments of its norm layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from anywidth.batchnorm.moments import Moments, collecting
from anywidth.core.errors import DataError
from anywidth.core.inputs import Inputs
from anywidth.core.modules import model_device

__all__ = ["collect_moments", "same_random_numbers", "stored_values"]


@torch.no_grad()
def collect_moments(
    network: nn.Module,
    norms: Sequence[_NormBase],
    batches: Iterable[Inputs],
    *,
    momentum: float | None = None,
    around: Callable[[int], AbstractContextManager[object]] = nullcontext,
) -> dict[_NormBase, Moments]:
    """Moments of norm layers over batches, by layer; layers that do not run are missing.

    Args:
        network: The network; nothing of it changes.
        norms: Its layers to measure, which normalize by each batch. All others are in evaluation mode.
        batches: Inputs, at least two samples each.
        momentum: As in `anywidth.calibrate`.
        around: Returns the context manager in which to run the batch of this number.

    Raises:
        DataError: a batch has only one sample, which has no variance.

    >>> norm, images = nn.BatchNorm1d(2), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    >>> moments = collect_moments(norm, [norm], [Inputs(args=(images,), kwargs={})])
    >>> stored_values(norm, moments[norm])
    (tensor([2., 0.]), tensor([2., 0.]))
    """
    with collecting(network, norms, momentum) as moments:
        for number, inputs in enumerate(batches):
            try:
                with around(number):
                    inputs.call(network)
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                raise DataError("one sample has no variance; calibrate with at least two images") from error
    return moments


def stored_values(norm: _NormBase, moments: Moments) -> tuple[Tensor, Tensor]:
    """Mean and variance as a norm layer stores them: of its type and on its device."""
    mean, variance = moments.result()
    return mean.to(norm.running_mean), variance.to(norm.running_var)  # type: ignore[arg-type]


@contextmanager
def same_random_numbers(model: nn.Module) -> Iterator[None]:
    """Context manager that restores the random generators of the CPU and of the model's device."""
    device = model_device(model)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
