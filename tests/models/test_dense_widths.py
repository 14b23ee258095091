"""Dense networks at a width: structure, parameters, narrow channels."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from anywidth.core.errors import ModelError
from anywidth.models import DigitsNet, MNasNet, MobileNetV1, MobileNetV2, ResNet, ShuffleNet

FACTORIES = {
    "digits": DigitsNet,
    "mnasnet": MNasNet,
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v2_small_images": lambda **options: MobileNetV2(downsamplings=3, **options),
    "resnet18": lambda **options: ResNet(18, **options),
    "resnet18_cifar": lambda **options: ResNet(18, stem="cifar", **options),
    "resnet20": lambda **options: ResNet(20, **options),
    "resnet50": lambda **options: ResNet(50, **options),
    "resnet56": lambda **options: ResNet(56, **options),
    "shufflenet": ShuffleNet,
}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (FACTORIES["mnasnet"], "mnasnet1_0"),
        (lambda: MNasNet(width=0.5), "mnasnet0_5"),
        (lambda: MNasNet(width=0.75), "mnasnet0_75"),
        (lambda: MNasNet(width=1.3), "mnasnet1_3"),
        (FACTORIES["mobilenet_v2"], "mobilenet_v2"),
        (FACTORIES["resnet18"], "resnet18"),
        (FACTORIES["resnet50"], "resnet50"),
    ],
)
def test_same_shapes_as_torchvision(ours, theirs: str) -> None:
    with torch.device("meta"):
        model, reference = ours(), torchvision.models.get_model(theirs, weights=None)
    shapes = [sorted(tuple(p.shape) for p in m.state_dict().values()) for m in (model, reference)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (56, 0.85)])
def test_parameters_of_small_resnets(depth: int, millions: float) -> None:
    """ResNet (arXiv 1512.03385), table 6."""
    with torch.device("meta"):
        model = ResNet(depth, num_classes=10)
    convolutions = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert round(sum(parameters(m) for m in convolutions) / 1e6, 2) == millions


@pytest.mark.parametrize(("width", "count"), [(1.0, 1_865_728), (0.5, 718_324)])
def test_parameters_of_shufflenet(width: float, count: int) -> None:
    """Of the tables of github.com/osmr/imgclsmob, whose bottlenecks have 60, 120 and 240 channels."""
    with torch.device("meta"):
        assert parameters(ShuffleNet(width=width)) == pytest.approx(count, rel=0.001)


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


@pytest.mark.parametrize("width", [0.25, 0.4, 0.7, 1.0, 2.0])
def test_shuffles_of_shufflenet_hand_every_group_as_much(width: float) -> None:
    with torch.device("meta"):
        model = ShuffleNet(width=width)
    shuffling = [path for path, module in model.named_modules() if isinstance(module, nn.ChannelShuffle)]
    assert len(shuffling) == 15
    modules = dict(model.named_modules())
    for path in shuffling:
        depthwise = modules[path.replace("shuffle", "depthwise")]
        assert isinstance(depthwise, nn.Conv2d)
        assert depthwise.out_channels % 9 == 0


def test_head_of_mnasnet_stays() -> None:
    with torch.device("meta"):
        assert [MNasNet(width=width).head.conv.out_channels for width in (0.35, 1.0, 1.5)] == [1280] * 3


def test_rounding_of_small_resnets_is_finer() -> None:
    with torch.device("meta"):
        assert ResNet(20, width=0.25).stem.conv.out_channels == 4
        assert ResNet(18, width=0.3).stem.conv.out_channels == 24


def test_readable_paths() -> None:
    with torch.device("meta"):
        v1, v2, resnet, shuffle = (
            dict(model.named_modules()) for model in (MobileNetV1(), MobileNetV2(), ResNet(50), ShuffleNet())
        )
    assert {"stem.conv", "features.3.depthwise", "features.3.pointwise", "classifier"} <= set(v1)
    assert {"features.3.expand", "features.3.depthwise", "features.3.project", "head.conv"} <= set(v2)
    assert {"stem.conv", "stages.0.0.shortcut.conv", "stages.3.2.conv3"} <= set(resnet)
    assert {"stem.conv", "features.3.reduce", "features.3.depthwise", "features.3.expand"} <= set(shuffle)


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf"), True])
def test_width_must_be_positive(width: float) -> None:
    with pytest.raises(ModelError, match="width must be a positive number"):
        DigitsNet(width=width)


def test_unknown_depth_stem_and_downsamplings() -> None:
    with pytest.raises(ModelError, match=r"unknown ResNet depth 19; choose one of \[8, 18, 20, 50, 56\]"):
        ResNet(19)
    with pytest.raises(ModelError, match="stem must be 'imagenet' or 'cifar', not 'mnist'"):
        ResNet(18, stem="mnist")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModelError, match="downsamplings must be between 0 and 5, not 6"):
        MobileNetV1(downsamplings=6)


@pytest.mark.parametrize("name", ["mnasnet", "mobilenet_v1", "mobilenet_v2", "shufflenet"])
@pytest.mark.parametrize("downsamplings", [0, 3, 5])
def test_downsamplings(name: str, downsamplings: int) -> None:
    net = FACTORIES[name](width=0.35, downsamplings=downsamplings).eval()
    sizes = []
    net.pool.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].shape[-1]))
    net(torch.rand(1, 3, 32, 32))
    assert sizes == [32 >> downsamplings]
