"""torchvision classification models, with any number of input channels."""

from __future__ import annotations

from torch import nn

from anywidth.core.errors import ModelError
from anywidth.models.suggest import closest

__all__ = ["build_torchvision"]


def build_torchvision(name: str, *, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Build a torchvision classification model with new weights, for images of `input_shape`.

    Models that need the image size (vision transformers, MaxViT) receive it. If the images do not have three channels,
    the first convolution is replaced. Auxiliary classifiers are left out.

    Raises:
        ModelError: the model is unknown in torchvision, or cannot be built for these images.
    """
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ModelError(f"torchvision has no classification model {name!r}; {closest(name, known, 'torchvision/')}")
    channels, height, width = input_shape
    options: dict[str, object] = {}
    if name.startswith("vit_"):
        if height != width:
            raise ModelError(f"torchvision/{name} needs square images, not {height}x{width}")
        options["image_size"] = height
    elif name.startswith("maxvit"):
        options["input_size"] = (height, width)
    elif name in ("googlenet", "inception_v3"):
        options.update(aux_logits=False, init_weights=False)
    try:
        model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"torchvision/{name} cannot be built for images of {input_shape}: {error}") from error
    if channels != 3:
        _replace_first_convolution(model, name, channels)
    return model


def _replace_first_convolution(model: nn.Module, name: str, channels: int) -> None:
    for path, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        if module.in_channels != 3 or module.groups != 1:
            break
        parent, _, attribute = path.rpartition(".")
        new = nn.Conv2d(
            channels,
            module.out_channels,
            module.kernel_size,  # pyright: ignore[reportArgumentType]
            module.stride,  # pyright: ignore[reportArgumentType]
            module.padding,  # pyright: ignore[reportArgumentType]
            module.dilation,  # pyright: ignore[reportArgumentType]
            bias=module.bias is not None,
            padding_mode=module.padding_mode,  # pyright: ignore[reportArgumentType]
        )
        setattr(model.get_submodule(parent), attribute, new)
        return
    raise ModelError(f"torchvision/{name} does not start with a 3-channel convolution; give it 3-channel images")
