"""The supernet of a run."""

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
    """A supernet with new weights, or those that the settings name.

    Widths that the settings leave open come from the model's class, and then from `Supernet`. Frozen patterns are
    added to those that the model's class freezes itself.

    Args:
        model: The network and its weights.
        widths: Which widths it has.
        input_shape: The (channels, height, width) of an image.
        classes: Outputs of the classifier.
        seed: Of new weights, and of the example if none is given.
        example: Images of shape (batch, channels, height, width) that the analysis runs on; by default one of noise.
        switch_affine: Whether switches have weights and biases of batch norms of their own, and not only statistics.
        reporter: Receives a warning of tensors that the file of weights does not have.

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
                f"{len(new)} tensors start anew, which {model.init} does not have, or in another shape: {few}"
            )
    return Supernet(
        channels_last_(network),
        _noise(input_shape, seed) if example is None else example,
        divisor=_own(network, "divisor", int, 8) if widths.divisor is None else widths.divisor,
        min_width=_own(network, "min_width", float, 0.25) if widths.min_width is None else widths.min_width,
        frozen=(*_own(network, "frozen", tuple, ()), *widths.frozen),
        switches=widths.switches,
        switch_affine=switch_affine,
        average_inputs=widths.average_inputs,
        order="l1" if model.init is not None and model.order != "none" else None,
    )


def _noise(shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


def _own(network: nn.Module, name: str, kind: type[T], default: T) -> T:
    value = getattr(network, name, None)
    return value if isinstance(value, kind) else default
