"""Batch-norm post-statistics: exact means and variances of every width, from training data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from anywidth.batchnorm.collect import collect_moments, same_random_numbers, stored_values
from anywidth.batchnorm.handmade import collecting_handmade
from anywidth.batchnorm.moments import Moments
from anywidth.core.batches import first_samples, join_inputs, samples
from anywidth.core.errors import AnywidthError, DataError
from anywidth.core.inputs import Inputs
from anywidth.core.modules import model_device
from anywidth.core.processes import all_gather, several_processes
from anywidth.supernet import Supernet, contiguous, norm_modules
from anywidth.supernet.own_buffers import stubborn
from anywidth.widths import Width, WidthConfig

__all__ = ["calibrate", "share_statistics"]


def calibrate(
    net: Supernet,
    loader: Iterable[Any],
    widths: Sequence[Width],
    *,
    images: int | None = None,
    sequential: bool = False,
    momentum: float | None = None,
) -> None:
    """Compute the batch-norm statistics of widths from training data, in place, without changing weights.

    First and second moments are pooled exactly over all batches, in double precision, regardless of their sizes and
    order. The batch norms' kernels compute the moments of each batch. Only norm layers are in training mode, and the
    random generators are restored afterwards. Processes that train together pool their moments: give each its part of
    the batches, or give all batches to each.

    Args:
        net: The supernet.
        loader: Batches of training data with training transforms; iterated once per width (per width and norm
            layer if `sequential`).
        widths: Widths as in `Supernet.config`, including nonuniform ones. Width 1.0 sets the model's own running
            statistics.
        images: Stop after this many samples per width; None for all. One to two thousand suffice (US-Nets,
            arXiv 1903.05134, section 3.4).
        sequential: Calibrate one layer after another, each on inputs normalized by the final statistics of the layers
            before it. The default normalizes by each batch in a single pass, as in training and in the papers.
        momentum: Use a moving average of the batches' moments instead of pooling them, as training does. For comparison
            only: it depends on the order of the batches and forgets the first ones.

    Raises:
        AnywidthError: `momentum` is out of range, or given with `sequential` or in several processes.
        DataError: the loader is empty or has only one sample.
        WidthError: a width does not fit the supernet.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(64, 2))
    >>> net = Supernet(model, torch.randn(1, 1, 4, 4))
    >>> calibrate(net, [torch.randn(8, 1, 4, 4)], widths=[0.5])
    >>> net.subnet(0.5).eval()(torch.randn(3, 1, 4, 4)).shape
    torch.Size([3, 2])
    """
    if momentum is not None and (sequential or not 0 < momentum <= 1):
        raise AnywidthError(f"momentum {momentum} must be in (0, 1], and needs sequential=False")
    if momentum is not None and several_processes():
        raise AnywidthError("a moving average depends on the order of the batches; calibrate without momentum")
    if sequential and net.effects.norms:
        raise AnywidthError(
            f"{net.effects.norms[0][0]} does not belong to an nn.BatchNorm1d, 2d or 3d; calibrate with sequential=False"
        )
    if net.nested:
        # All widths share the statistics of the full network, except for batch norms of the tail.
        widths = [1.0, *(width for width in widths if net.statistics.needed and net.config(width) != net.config(1.0))]
    elif not net.statistics.needed:
        return
    for config in [net.config(width) for width in widths]:
        subnet = net.subnet(config)
        dense = nullcontext() if subnet is net.model else contiguous(subnet)
        values = {}
        with net.statistics.computing(config), same_random_numbers(subnet), dense:
            if sequential:
                moments = _sequential(subnet, loader, images)
            else:
                # The user's forward may ignore the momentum.
                stubborn_ones = [name for name, norm in norm_modules(subnet).items() if stubborn(norm)]
                prefixes = [f"{name}." if name else "" for name in stubborn_ones]
                pairs = [*net.effects.norms, *((f"{p}running_mean", f"{p}running_var") for p in prefixes)]
                with collecting_handmade(subnet, pairs, momentum) as handmade:
                    moments = _single_pass(subnet, loader, images, momentum)
                values = _handmade_values(subnet, handmade)
        for name, norm in norm_modules(subnet).items():
            prefix = f"{name}." if name else ""
            if f"{prefix}running_mean" in values:
                continue
            if norm in moments:
                mean, variance = stored_values(norm, moments[norm])
            elif subnet is net.model:
                continue
            else:  # not part of the evaluation graph, such as an auxiliary head
                mean, variance = torch.zeros_like(norm.running_mean), torch.ones_like(norm.running_var)  # type: ignore[arg-type]
            values[f"{prefix}running_mean"], values[f"{prefix}running_var"] = mean, variance
        _store(net, config, values, subnet)


def share_statistics(net: Supernet, widths: Sequence[Width]) -> None:
    """Set the statistics of widths to slices of the supernet's running statistics, in place.

    A naive implementation does this, and it ruins the accuracy of narrow widths (S-Nets, arXiv 1812.08928, section
    3.2). Use it for ablations, and for comparisons with the masked full network.
    """
    own = dict(net.model.named_buffers(remove_duplicate=False))
    for width in widths:
        config = net.config(width)
        subnet = net.subnet(config)
        values = {}
        blocks = net.analysis.blocks(config)
        for name in dict.fromkeys(net.analysis.names[name] for name in net.statistics.names):
            (kept,) = net.analysis.kept(name, blocks)
            index = slice(None) if kept is None else slice(kept) if isinstance(kept, int) else kept
            values[name] = own[name][index]
        _store(net, config, values, subnet)


def _handmade_values(subnet: nn.Module, found: dict[tuple[str, str], Moments]) -> dict[str, Tensor]:
    """The running statistics of handmade batch norms, by the names of their buffers."""
    own = dict(subnet.named_buffers(remove_duplicate=False))
    values = {}
    for (mean, variance), moments in found.items():
        if several_processes():
            moments.pool()
        values[mean], values[variance] = (v.to(own[n]) for v, n in zip(moments.result(), (mean, variance), strict=True))
    return values


def _store(net: Supernet, config: WidthConfig, values: dict[str, Tensor], subnet: nn.Module) -> None:
    if subnet is net.model:
        own = dict(net.model.named_buffers(remove_duplicate=False))
        for name, value in values.items():
            own[name].copy_(value)
    else:
        net.statistics.store(config, values)


def _training_batches(subnet: nn.Module, loader: Iterable[Any], images: int | None) -> Iterator[Inputs]:
    """Inputs of the first images, on the device of a network, in batches of two or more.

    Raises:
        DataError: at the end, if there are none in this or another process.
    """
    fed = False
    for inputs in _without_singles(inputs for inputs, _ in first_samples(loader, images, model_device(subnet))):
        yield inputs
        fed = True
    if not all(all_gather(fed)):
        raise DataError("the calibration loader is empty; give batches of training images")


def _without_singles(batches: Iterable[Inputs]) -> Iterator[Inputs]:
    """The same samples without batches of one, which have no variance: such a batch joins the next, or the last."""
    ready: Inputs | None = None
    single: Inputs | None = None
    for inputs in batches:
        joined = inputs if single is None else join_inputs([single, inputs])
        single = joined if samples(joined) == 1 else None
        if single is None:
            if ready is not None:
                yield ready
            ready = joined
    if single is not None:
        ready = single if ready is None else join_inputs([ready, single])
    if ready is not None:
        yield ready


def _single_pass(
    subnet: nn.Module, loader: Iterable[Any], images: int | None, momentum: float | None
) -> dict[_NormBase, Moments]:
    norms = [norm for norm in norm_modules(subnet).values() if not stubborn(norm)]
    return _pooled(collect_moments(subnet, norms, _training_batches(subnet, loader, images), momentum=momentum))


def _pooled(moments: dict[_NormBase, Moments]) -> dict[_NormBase, Moments]:
    """Pool moments over all processes, in place."""
    if several_processes():
        for each in moments.values():
            each.pool()
    return moments


def _sequential(subnet: nn.Module, loader: Iterable[Any], images: int | None) -> dict[_NormBase, Moments]:
    norms = list(norm_modules(subnet).values())
    order: list[_NormBase] = []
    handles = [norm.register_forward_hook(lambda n, *_: order.append(cast(_NormBase, n))) for norm in norms]
    try:
        collect_moments(subnet, norms, _training_batches(subnet, loader, images=2))
    finally:
        for handle in handles:
            handle.remove()
    final: dict[_NormBase, Moments] = {}
    with _replaced(norms):
        for norm in dict.fromkeys(order):
            moments = _pooled(collect_moments(subnet, [norm], _training_batches(subnet, loader, images)))
            final[norm] = moments[norm]
            # A batch norm in training divides by the count, so later layers receive the same as for one batch.
            mean, variance = moments[norm].result(unbiased=False)
            norm.running_mean, norm.running_var = mean.to(norm.running_mean), variance.to(norm.running_var)  # type: ignore[arg-type]
    return final


@contextmanager
def _replaced(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Context manager in which norms have separate running buffers, which may be replaced."""
    kept = [(norm, norm.running_mean, norm.running_var) for norm in norms]
    try:
        for norm in norms:
            norm.running_mean = torch.zeros_like(norm.running_mean)  # type: ignore[arg-type]
            norm.running_var = torch.ones_like(norm.running_var)  # type: ignore[arg-type]
        yield
    finally:
        for norm, mean, variance in kept:
            norm.running_mean, norm.running_var = mean, variance
