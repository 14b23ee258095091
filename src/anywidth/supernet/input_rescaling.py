"""Input rescaling: scale sums over fewer input channels to the size of the full sums."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from anywidth.core.errors import NoEffectWarning, WidthError
from anywidth.groups.analysis import Analysis
from anywidth.groups.forward import uses_of

__all__ = ["fold_rescaling_", "rescale_inputs_", "rescaled_layers"]


def rescale_inputs_(model: nn.Module, subnet: nn.Module, layers: Iterable[str]) -> None:
    """Make layers of a subnet scale their input by full over active input channels, in place.

    Source: US-Nets (arXiv 1903.05134), which finds no clear gain in it.

    >>> model, subnet = nn.Sequential(nn.Linear(8, 2)), nn.Sequential(nn.Linear(4, 2))
    >>> x, before = torch.randn(3, 4), subnet[0].bias
    >>> plain = subnet(x) - before
    >>> rescale_inputs_(model, subnet, ["0"])
    >>> bool(torch.allclose(subnet(x) - before, 2 * plain, atol=1e-6))
    True
    """
    for layer, factor in _narrowed(model, subnet, layers):

        def scale(_: nn.Module, inputs: tuple[Tensor, ...], factor: float = factor) -> tuple[Tensor, ...]:
            return (inputs[0] * factor, *inputs[1:])

        layer.register_forward_pre_hook(scale)


@torch.no_grad()
def fold_rescaling_(model: nn.Module, dense: nn.Module, layers: Iterable[str]) -> None:
    """Fold the factors of `rescale_inputs_` into the weights of an independent network, in place."""
    for layer, factor in _narrowed(model, dense, layers):
        layer.weight.mul_(factor)


def rescaled_layers(model: nn.Module, analysis: Analysis) -> tuple[str, ...]:
    """Paths of the convolutions and linear layers whose inputs are rescaled.

    In these layers, a factor on the input equals a factor on the weight. Layers that compute their weight from other
    tensors (weight norm, standardized weights), or whose weight another module uses without calling the layer
    (attention), are not rescaled, with a `NoEffectWarning`.

    Raises:
        WidthError: a layer shares its weight, so the factor cannot be folded into it.

    >>> from anywidth.groups import analyse
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> rescaled_layers(model, analyse(model, torch.randn(1, 4)))
    ('0', '2')
    """
    users: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            users[id(parameter)] = users.get(id(parameter), 0) + 1
    rescaled, others = [], []
    for path, module in model.named_modules():
        if isinstance(module, (nn.Linear, _ConvNd)):
            weight = module._parameters.get("weight")
            if weight is not None and users[id(weight)] > 1:
                raise WidthError(f"average_inputs does not work with the shared weight of {path}; leave it out")
            direct = weight is not None and _is_direct(path, analysis)
            (rescaled if direct else others).append(path)
    skipped = [path for path in others if _narrows(path, analysis)]
    if skipped:
        warnings.warn(
            f"average_inputs has no effect on {', '.join(skipped)}: the weight there is computed, or used without "
            "calling the layer",
            NoEffectWarning,
            stacklevel=4,
        )
    return tuple(rescaled)


_DIRECT = frozenset(
    f"aten.{name}" for name in (
        "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"
    )
)  # fmt: skip


def _is_direct(path: str, analysis: Analysis) -> bool:
    """Whether the weight of a layer is used only by the layer's operator."""
    name = f"{path}.weight" if path else "weight"
    for user, operator, arguments in uses_of(analysis.forward, name):
        as_weight = arguments.rstrip(")").split(", ")[1:2] == [f"<{name}>"]
        if user != path or operator.rpartition(".")[0] not in _DIRECT or not as_weight:
            return False
    return True


def _narrows(path: str, analysis: Analysis) -> bool:
    """Whether a tensor of a layer has channels that can be dropped."""
    elastic = {number for number, group in enumerate(analysis.groups) if group.frozen is None}
    prefix = f"{path}." if path else ""
    return any(
        axis is not None and bool(elastic & set(axis.group.tolist()))
        for name, first in analysis.names.items()
        if name.startswith(prefix)
        for axis in analysis.axes.get(first, ())
    )


def _narrowed(
    model: nn.Module, narrow: nn.Module, layers: Iterable[str]
) -> Iterator[tuple[nn.Linear | _ConvNd, float]]:
    """The layers of a narrower network that sum over fewer channels, with the factor by which they do."""
    for path in layers:
        ours, theirs = model.get_submodule(path), narrow.get_submodule(path)
        assert isinstance(ours, (nn.Linear, _ConvNd))
        assert isinstance(theirs, (nn.Linear, _ConvNd))
        inputs = 0 if isinstance(ours, _ConvTransposeNd) else 1
        full, active = ours.weight.shape[inputs], theirs.weight.shape[inputs]
        if active < full:
            yield theirs, full / active
