"""Averaging over input channels: sums over fewer channels are scaled up to the size of the full ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from anywidth.errors import WidthError

__all__ = ["average_inputs_", "check_untied", "fold_average_"]


def average_inputs_(model: nn.Module, subnet: nn.Module) -> None:
    """Let every convolution and linear layer of a subnet scale its input by full over active input channels, in place.

    Source: US-Nets (arXiv 1903.05134), which finds no clear gain in it.

    >>> model, subnet = nn.Sequential(nn.Linear(8, 2)), nn.Sequential(nn.Linear(4, 2))
    >>> x, before = torch.randn(3, 4), subnet[0].bias
    >>> plain = subnet(x) - before
    >>> average_inputs_(model, subnet)
    >>> bool(torch.allclose(subnet(x) - before, 2 * plain, atol=1e-6))
    True
    """
    for layer, factor in _narrowed(model, subnet):

        def scale(_: nn.Module, inputs: tuple[Tensor, ...], factor: float = factor) -> tuple[Tensor, ...]:
            return (inputs[0] * factor, *inputs[1:])

        layer.register_forward_pre_hook(scale)


@torch.no_grad()
def fold_average_(model: nn.Module, dense: nn.Module) -> None:
    """Put the factors of `average_inputs_` into the weights of an independent network, in place."""
    for layer, factor in _narrowed(model, dense):
        layer.weight.mul_(factor)


def check_untied(model: nn.Module) -> None:
    """Raise if a layer that averages its inputs shares its weight, into which no factor could be put.

    Raises:
        WidthError: with the name of the layer.
    """
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, _ConvNd)) and users.get(id(module.weight), 0) > 1:
            raise WidthError(f"average_inputs does not go with the shared weight of {name}; leave it out")


def _narrowed(model: nn.Module, narrow: nn.Module) -> Iterator[tuple[nn.Linear | _ConvNd, float]]:
    """The layers of a narrower network that sum over fewer channels, with the factor by which they do."""
    for ours, theirs in zip(model.modules(), narrow.modules(), strict=True):
        if isinstance(ours, (nn.Linear, _ConvNd)) and isinstance(theirs, (nn.Linear, _ConvNd)):
            inputs = 0 if isinstance(ours, _ConvTransposeNd) else 1
            full, active = ours.weight.shape[inputs], theirs.weight.shape[inputs]
            if active < full:
                yield theirs, full / active
