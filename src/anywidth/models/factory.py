"""Models by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from anywidth.core.errors import ModelError
from anywidth.models.digits_net import DigitsNet
from anywidth.models.fit import check_fit
from anywidth.models.mnasnet import MNasNet
from anywidth.models.mobilenet_v1 import MobileNetV1
from anywidth.models.mobilenet_v2 import MobileNetV2
from anywidth.models.resnet import ResNet
from anywidth.models.shufflenet import ShuffleNet
from anywidth.models.suggest import closest
from anywidth.models.timm_models import build_timm
from anywidth.models.torchvision_models import build_torchvision

__all__ = ["build_model", "model_names"]

_Builder = Callable[[int, int, float, int], nn.Module]
"""Builds a model from classes, input channels, width and image side."""

_SMALL_IMAGE = 64
"""Largest image side for which networks use their CIFAR form."""


def _resnet(depth: int) -> _Builder:
    def build(classes: int, channels: int, width: float, side: int) -> nn.Module:
        stem = "cifar" if side <= _SMALL_IMAGE else None
        return ResNet(depth, stem=stem, width=width, num_classes=classes, in_channels=channels)

    return build


def _mobile(model: type[MNasNet] | type[MobileNetV1] | type[MobileNetV2] | type[ShuffleNet]) -> _Builder:
    def build(classes: int, channels: int, width: float, side: int) -> nn.Module:
        downsamplings = 3 if side <= _SMALL_IMAGE else 5
        return model(width=width, num_classes=classes, in_channels=channels, downsamplings=downsamplings)

    return build


def _digits(classes: int, channels: int, width: float, side: int) -> nn.Module:
    return DigitsNet(width=width, num_classes=classes, in_channels=channels)


_OWN: dict[str, _Builder] = {
    "digits": _digits,
    "mnasnet": _mobile(MNasNet),
    "mobilenet_v1": _mobile(MobileNetV1),
    "mobilenet_v2": _mobile(MobileNetV2),
    "resnet8": _resnet(8),
    "resnet18": _resnet(18),
    "resnet20": _resnet(20),
    "resnet50": _resnet(50),
    "resnet56": _resnet(56),
    "shufflenet": _mobile(ShuffleNet),
}

_LIBRARIES = {"torchvision": build_torchvision, "timm": build_timm}


def model_names() -> tuple[str, ...]:
    """Names of the built-in models, excluding `torchvision/NAME` and `timm/NAME`.

    >>> "mobilenet_v2" in model_names()
    True
    """
    return tuple(_OWN)


def build_model(name: str, *, num_classes: int, input_shape: tuple[int, int, int], width: float = 1.0) -> nn.Module:
    """Build a model with new weights that maps images of `input_shape` to `num_classes` logits.

    Args:
        name: One of `model_names()`, or `torchvision/NAME` or `timm/NAME`.
        num_classes: Number of classifier outputs.
        input_shape: Channels, height and width of the images; up to 64 pixels per side, built-in networks use their
            CIFAR form (a 3x3 stem without stride in ResNets, three halvings in the others).
        width: Width of a dense network, for built-in models only.

    Raises:
        ModelError: the name is unknown, the model does not run on such images, or a width was given for a library
            model.

    >>> model = build_model("resnet20", num_classes=10, input_shape=(3, 32, 32), width=0.25)
    >>> model.classifier
    Linear(in_features=16, out_features=10, bias=True)
    """
    if num_classes < 1 or len(input_shape) != 3 or min(input_shape) < 1:
        raise ModelError(
            f"{name} needs at least one class and an input shape (channels, height, width), "
            f"not {num_classes} classes and {input_shape}"
        )
    if name in _OWN:
        channels, height, across = input_shape
        model = _OWN[name](num_classes, channels, width, max(height, across))
    else:
        model = _from_library(name, num_classes, input_shape, width)
    check_fit(model, name=name, num_classes=num_classes, input_shape=input_shape)
    arguments = {"name": name, "num_classes": num_classes, "input_shape": list(input_shape), "width": width}
    model.built_as = arguments  # pyright: ignore[reportArgumentType]
    return model


def _from_library(name: str, num_classes: int, input_shape: tuple[int, int, int], width: float) -> nn.Module:
    library, slash, rest = name.partition("/")
    if not slash or library not in _LIBRARIES:
        libraries = " or ".join(f"{library}/NAME" for library in _LIBRARIES)
        raise ModelError(f"unknown model {name!r}; {closest(name, _OWN)} (or {libraries})")
    if width != 1.0:
        raise ModelError(
            f"{name} cannot be built at width {width:g}, only built-in models can ({', '.join(_OWN)}); "
            "build it at width 1 and take a subnet"
        )
    return _LIBRARIES[library](rest, num_classes=num_classes, input_shape=input_shape)
