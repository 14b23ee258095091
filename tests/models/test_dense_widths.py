"""Dense networks at a width: structure, parameters, narrow channels."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from anywidth.errors import ModelError
from anywidth.models import DigitsNet, MobileNetV1, MobileNetV2, ResNet

FACTORIES = {
    "digits": DigitsNet,
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v2_small_images": lambda **options: MobileNetV2(downsamplings=3, **options),
    "resnet18": lambda **options: ResNet(18, **options),
    "resnet18_cifar": lambda **options: ResNet(18, stem="cifar", **options),
    "resnet20": lambda **options: ResNet(20, **options),
    "resnet50": lambda **options: ResNet(50, **options),
}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (FACTORIES["mobilenet_v2"], "mobilenet_v2"),
        (FACTORIES["resnet18"], "resnet18"),
        (FACTORIES["resnet50"], "resnet50"),
    ],
    ids=["mobilenet_v2", "resnet18", "resnet50"],
)
def test_same_shapes_as_torchvision(ours, theirs: str) -> None:
    with torch.device("meta"):
        model, reference = ours(), torchvision.models.get_model(theirs, weights=None)
    shapes = [sorted(tuple(p.shape) for p in m.state_dict().values()) for m in (model, reference)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    ("name", "count"),
    [("mobilenet_v1", 4_231_976), ("resnet20", 272_474 + 90 * 65), ("resnet18_cifar", 11_220_132 + 900 * 513)],
)
def test_published_parameters(name: str, count: int) -> None:
    """MobileNetV1: 4.2M (arXiv 1704.04861, table 8); the others by hand, from 10 and 100 classes to 100 and 1,000."""
    with torch.device("meta"):
        model = FACTORIES[name](num_classes=100 if name == "resnet20" else 1000)
    assert parameters(model) == count


@pytest.mark.parametrize("name", FACTORIES)
def test_narrow_network_has_the_layers_of_the_full_one(name: str) -> None:
    with torch.device("meta"):
        full = FACTORIES[name]()
        for width in (full.min_width, 0.4, 0.7):
            narrow = FACTORIES[name](width=width)
            assert [(path, type(m)) for path, m in narrow.named_modules()] == [
                (path, type(m)) for path, m in full.named_modules()
            ]
            assert [getattr(m, "residual", None) for m in narrow.modules()] == [
                getattr(m, "residual", None) for m in full.modules()
            ]
            for (path, few), many in zip(narrow.named_parameters(), full.parameters(), strict=True):
                assert all(a <= b for a, b in zip(few.shape, many.shape, strict=True)), path


@pytest.mark.parametrize("name", FACTORIES)
def test_widths_keep_inputs_and_classes(name: str) -> None:
    with torch.device("meta"):
        model = FACTORIES[name](width=0.5, in_channels=4, num_classes=7)
    assert model.stem.conv.in_channels == 4
    assert model.classifier.out_features == 7


@pytest.mark.parametrize("name", FACTORIES)
def test_forward_and_backward(name: str) -> None:
    model = FACTORIES[name](width=0.25, in_channels=1, num_classes=5)
    loss = model(torch.rand(2, 1, 32, 32)).square().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_head_of_mobilenet_v2_is_not_narrowed_but_widened() -> None:
    with torch.device("meta"):
        heads = [MobileNetV2(width=width).head.conv.out_channels for width in (0.35, 1.0, 1.5)]
    assert heads == [1280, 1280, 1920]


def test_expanded_channels_follow_the_rounded_ones() -> None:
    with torch.device("meta"):
        model = MobileNetV2(width=0.35)
    expanding = [module for path, module in model.named_modules() if path.endswith(".expand")]
    projecting = [module for path, module in model.named_modules() if path.endswith(".project")]
    assert (len(expanding), len(projecting)) == (16, 17)
    for module in expanding:
        assert isinstance(module, nn.Conv2d)
        assert module.out_channels == 6 * module.in_channels
    for module in projecting:
        assert isinstance(module, nn.Conv2d)
        assert module.out_channels % 8 == 0


def test_rounding_of_small_resnets_is_finer() -> None:
    with torch.device("meta"):
        assert ResNet(20, width=0.25).stem.conv.out_channels == 4
        assert ResNet(18, width=0.3).stem.conv.out_channels == 24


def test_readable_paths() -> None:
    with torch.device("meta"):
        v1, v2, resnet = (dict(model.named_modules()) for model in (MobileNetV1(), MobileNetV2(), ResNet(50)))
    assert {"stem.conv", "features.3.depthwise", "features.3.pointwise", "classifier"} <= set(v1)
    assert {"features.3.expand", "features.3.depthwise", "features.3.project", "head.conv"} <= set(v2)
    assert {"stem.conv", "stages.0.0.shortcut.conv", "stages.3.2.conv3"} <= set(resnet)


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf"), True])
def test_width_must_be_positive(width: float) -> None:
    with pytest.raises(ModelError, match="width must be a positive number"):
        DigitsNet(width=width)


def test_unknown_depth_stem_and_downsamplings() -> None:
    with pytest.raises(ModelError, match=r"no ResNet of depth 19; choose one of \[18, 20, 50, 56\]"):
        ResNet(19)
    with pytest.raises(ModelError, match="stem must be 'imagenet' or 'cifar', not 'mnist'"):
        ResNet(18, stem="mnist")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match="downsamplings must be between 0 and 5, not 6"):
        MobileNetV1(downsamplings=6)


@pytest.mark.parametrize("model", [MobileNetV1, MobileNetV2])
@pytest.mark.parametrize("downsamplings", [0, 3, 5])
def test_downsamplings(model: type[MobileNetV1] | type[MobileNetV2], downsamplings: int) -> None:
    net = model(width=0.35, downsamplings=downsamplings).eval()
    assert net.features(net.stem(torch.rand(1, 3, 32, 32))).shape[-1] == 32 >> downsamplings
