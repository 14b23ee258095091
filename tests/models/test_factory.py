"""Models by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anywidth.core.errors import ModelError
from anywidth.models import MobileNetV2, ResNet, build_model, model_names


def logits(model: nn.Module, shape: tuple[int, int, int]) -> torch.Size:
    return model.eval()(torch.rand(2, *shape)).shape


def test_names() -> None:
    assert model_names() == (
        "digits",
        "mnasnet",
        "mobilenet_v1",
        "mobilenet_v2",
        "resnet8",
        "resnet18",
        "resnet20",
        "resnet50",
        "resnet56",
        "shufflenet",
    )


@pytest.mark.parametrize("name", model_names())
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_our_own(name: str, shape: tuple[int, int, int]) -> None:
    model = build_model(name, num_classes=4, input_shape=shape, width=0.25)
    assert all(module.training for module in model.modules())
    assert logits(model, shape) == (2, 4)


def test_stem_follows_the_image_size() -> None:
    def small(side: int) -> tuple[ResNet | MobileNetV2, ...]:
        built = [
            build_model(n, num_classes=2, input_shape=(3, side, side), width=0.25) for n in ("resnet18", "mobilenet_v2")
        ]
        return tuple(model for model in built if isinstance(model, (ResNet, MobileNetV2)))

    for side, kernels, strides in [(64, (3, 3), (1, 1)), (65, (7, 3), (2, 2))]:
        stems = [model.stem.conv for model in small(side)]
        assert tuple(stem.kernel_size[0] for stem in stems) == kernels
        assert tuple(stem.stride[0] for stem in stems) == strides


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("torchvision/resnet18", (1, 32, 32)),
        ("torchvision/squeezenet1_1", (3, 32, 32)),
        ("torchvision/googlenet", (3, 64, 64)),
        ("torchvision/vit_b_16", (4, 32, 32)),
        ("timm/resnet10t", (1, 32, 32)),
        ("timm/vit_tiny_patch16_224", (1, 32, 48)),
        ("timm/mixer_s32_224", (3, 64, 64)),
    ],
)
def test_libraries(name: str, shape: tuple[int, int, int]) -> None:
    model = build_model(name, num_classes=6, input_shape=shape)
    assert all(module.training for module in model.modules())
    assert logits(model, shape) == (2, 6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet81", r"unknown model 'resnet81'; did you mean resnet8 or resnet18"),
        ("MobileNetV2", "did you mean mobilenet_v2"),
        ("zzz", "known names include digits, mnasnet.*or torchvision/NAME or timm/NAME"),
        ("keras/resnet18", "did you mean resnet18 or resnet8"),
        ("torchvision/resnt18", "did you mean torchvision/resnet18"),
        ("torchvision/fcn_resnet50", "no classification model"),
        ("timm/resnt18", "did you mean timm/resnet18"),
        ("", "unknown model ''"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(name, num_classes=2, input_shape=(3, 32, 32))


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/resnet18"])
def test_width_is_only_for_our_own(name: str) -> None:
    with pytest.raises(ModelError, match=f"{name} cannot be built at width 0.5, only built-in models"):
        build_model(name, num_classes=2, input_shape=(3, 32, 32), width=0.5)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("torchvision/alexnet", (3, 8, 8), r"does not run on images of \(3, 8, 8\)"),
        ("torchvision/vit_b_16", (3, 30, 30), "cannot be built for images"),
        ("torchvision/vit_b_16", (3, 32, 48), "needs square images, not 32x48"),
        ("timm/vit_tiny_patch16_224", (3, 8, 8), "timm/vit_tiny_patch16_224"),
        ("resnet18", (3, 0, 8), "needs at least one class and an input shape"),
    ],
)
def test_images_that_do_not_fit(name: str, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(name, num_classes=2, input_shape=shape)


def test_no_classes() -> None:
    with pytest.raises(ModelError, match="not 0 classes"):
        build_model("digits", num_classes=0, input_shape=(1, 8, 8))
