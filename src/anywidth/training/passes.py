"""Preparation of a subnet for one forward and backward pass of a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from anywidth.core.errors import UncalibratedError
from anywidth.core.modules import model_device, module_modes
from anywidth.groups.effects import is_dropout
from anywidth.supernet import Supernet, castable, contiguous, follow_mode, gradients_together, norm_modules
from anywidth.supernet.own_buffers import kept_buffers, stubborn
from anywidth.widths import WidthConfig

__all__ = ["prepared"]


@contextmanager
def prepared(net: Supernet, subnet: nn.Module, config: WidthConfig, *, first: bool, dropout: bool) -> Iterator[None]:
    """Context manager in which a subnet is ready for one forward and backward pass of a step."""
    if subnet is not net.model:
        follow_mode(net.model, subnet, dropout=dropout)
        device = model_device(net.model).type
        frozen = _frozen(net, subnet, config)
        # On a CPU, a gradient is still in the cache if it is moved at once.
        together = gradients_together(subnet) if device == "cuda" else nullcontext()
        # Also if autocast copies weights: gradients of dense weights are moved without another copy.
        lower = castable(net, subnet, device)
        dense = contiguous(subnet, cast=lower, dtype=torch.get_autocast_dtype(device)) if lower else contiguous(subnet)
        try:
            with frozen, dense, together:
                yield
        finally:
            if not dropout:
                follow_mode(net.model, subnet, dropout=True)
    elif first:
        yield
    else:  # a random width may round to the widest; then it is treated like any other random width
        written = (*net.own_buffers.names, *(name for pair in net.effects.norms for name in pair))
        with _passing(subnet, dropout=dropout), kept_buffers(subnet, written):
            yield


def _frozen(net: Supernet, subnet: nn.Module, config: WidthConfig) -> AbstractContextManager[None]:
    """Context manager in which a subnet trains with its frozen batch norms, if any."""
    if not net.frozen_norms.any:
        return nullcontext()
    if net.model.training or any(module.training for module in net.model.modules()):
        return net.frozen_norms.training_pass(config, subnet)
    if not net.statistics.is_usable(config):
        raise UncalibratedError(
            f"sandwich_step on a network in evaluation mode, whose width {config} has no up-to-date "
            "batch-norm statistics: call net.model.train() before the step. To freeze batch norms, call .eval() on "
            "them alone after that"
        )
    return nullcontext()


@contextmanager
def _passing(model: nn.Module, *, dropout: bool) -> Iterator[None]:
    """Context manager in which training batch norms store nothing; without `dropout`, dropout layers are off."""
    norms = [norm for norm in norm_modules(model).values() if norm.training and not stubborn(norm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    with module_modes(model):
        for module in model.modules():
            module.training = module.training and (dropout or not is_dropout(module))
        try:
            for norm in norms:
                norm.momentum, norm.num_batches_tracked = 0.0, None
            yield
        finally:
            for norm, momentum, batches in before:
                norm.momentum, norm.num_batches_tracked = momentum, batches
