"""timm models, built for the images of a dataset."""

from __future__ import annotations

from typing import Any

from torch import nn

from anywidth.core.errors import ModelError
from anywidth.models.suggest import closest

__all__ = ["build_timm"]


def build_timm(
    name: str, *, num_classes: int, input_shape: tuple[int, int, int], pretrained: bool = False
) -> nn.Module:
    """Build a timm model with new or pretrained weights, for images of `input_shape`.

    A model with a fixed image size (`img_size`) is built for the size of the images.

    Raises:
        ModelError: the model is unknown in timm, or cannot be built for these images.
    """
    import timm

    if not timm.is_model(name):
        raise ModelError(f"timm has no model {name!r}; {closest(name, timm.list_models(), 'timm/')}")
    channels, *size = input_shape
    config = timm.get_pretrained_cfg(name)
    sized: dict[str, Any] = {"img_size": tuple(size)} if config is not None and config.fixed_input_size else {}
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=channels, **sized)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"timm/{name} cannot be built for images of {input_shape}: {error}") from error
