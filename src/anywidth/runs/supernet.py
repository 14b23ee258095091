"""Supernet of a run."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from anywidth.models import build_model, channels_last_, load_initial
from anywidth.runs.reporter import Reporter
from anywidth.runs.settings import ModelSettings, WidthSettings
from anywidth.supernet import Supernet
from anywidth.widths import check_width

T = TypeVar("T")

__all__ = ["build_supernet"]


def build_supernet(
    model: ModelSettings,
    widths: WidthSettings,
    *,
    input_shape: tuple[int, int, int],
    classes: int,
    seed: int = 0,
    example: torch.Tensor | None = None,
    switch_affine: bool = True,
    reporter: Reporter | None = None,
) -> Supernet:
    """Supernet with new weights, or with those that the settings name.

    Width settings that are None come from the model's class, then from `Supernet`. Frozen patterns add to those of
    the model's class.

    Args:
        model: The network and its initial weights.
        widths: The width settings.
        input_shape: The (channels, height, width) of an image.
        classes: Number of classifier outputs.
        seed: Seed of new weights, and of the noise example.
        example: Images of shape (batch, channels, height, width) for the analysis; by default noise.
        switch_affine: Whether each switch has its own batch-norm weights and biases in addition to its statistics.
        reporter: Receives a warning about tensors that are missing from the weights file.

    Raises:
        AnywidthError: the model is unknown or cannot be analysed, or the weights do not fit.
    """
    if widths.min_width is not None:
        check_width(widths.min_width, what="--min-width")
    torch.manual_seed(seed)
    network = build_model(model.name, num_classes=classes, input_shape=input_shape, width=model.width_mult)
    if model.init is not None:
        new = load_initial(network, model.init, name=model.name, input_shape=input_shape)
        if new:
            few = ", ".join(new[:4]) + (", ..." if len(new) > 4 else "")
            (reporter or Reporter()).warning(
                f"{len(new)} tensors are newly initialized: {model.init} lacks them or has other shapes: {few}"
            )
    net = Supernet(
        network,
        _noise(input_shape, seed) if example is None else example,
        divisor=_own(network, "divisor", int, 8) if widths.divisor is None else widths.divisor,
        min_width=_own(network, "min_width", float, 0.25) if widths.min_width is None else widths.min_width,
        frozen=(*_own(network, "frozen", tuple, ()), *widths.frozen),
        switches=widths.switches,
        nested=widths.nested,
        nested_norm=None if widths.nested_norm == "none" else widths.nested_norm,
        switch_affine=switch_affine,
        average_inputs=widths.average_inputs,
        order="l1" if model.init is not None and model.order != "none" else None,
    )
    # A nested network runs its convolutions at full width only.
    channels_last_(network, narrowest=None if net.nested else net.subnet(net.min_width))
    return net


def _noise(shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def _own(network: nn.Module, name: str, kind: type[T], default: T) -> T:
    value = getattr(network, name, None)
    return value if isinstance(value, kind) else default
