"""Progressive inference gives what the subnets give, and computes nothing twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import anywidth as aw
from anywidth.core.errors import AnalysisError, AnywidthError, ModelChangedError, WidthError
from built_once import built_once

WIDTHS = (0.25, 0.5, 0.75, 1.0)


class Concatenated(nn.Module):
    """Two branches, concatenated with the input, so that channels of a width are not the first ones; an excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(43)
        self.mix = nn.Conv2d(43, 32, 1)
        self.squeeze, self.excite = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.a(x).relu_(), x, self.b(x)], 1))
        x = self.mix(x).relu()
        x = x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.head((x + self.depthwise(x)).mean((2, 3)))


@built_once
def made(build: Callable[[], nn.Module] = Concatenated, divisor: int = 4) -> tuple[aw.Supernet, Tensor]:
    model = build().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    return aw.Supernet(model.eval(), x, nested=WIDTHS, divisor=divisor), x


@torch.no_grad()
def test_every_way_through_the_widths_gives_the_subnets() -> None:
    net, x = made()
    runner = net.progressive()
    for way in ((0.25, 0.5, 0.75, 1.0), (0.25, 1.0), (0.5, 0.75), (0.75, 1.0), (1.0,)):
        outputs = [runner.start(x, way[0]), *(runner.refine(width) for width in way[1:])]
        for width, output in zip(way, outputs, strict=True):
            torch.testing.assert_close(output, net.subnet(width)(x), rtol=1e-9, atol=1e-12)
        assert runner.width == way[-1]


@torch.no_grad()
def test_a_running_network_sees_weights_written_through_data() -> None:
    net, x = made()
    runner = net.progressive()
    runner.start(x, 0.25)
    runner.refine(1.0)
    net.model.get_parameter("a.weight").data.mul_(2)
    torch.testing.assert_close(runner.start(x, 0.25), net.subnet(0.25)(x), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(runner.refine(1.0), net.model(x), rtol=1e-9, atol=1e-12)
    net.model.get_parameter("mix.weight").data.add_(1e-3)
    with pytest.raises(ModelChangedError, match="mix.weight has weights that read later shells"):
        runner.start(x)


class Inverted(nn.Module):
    """Inverted residuals, whose narrow layers get no new channels at some widths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(True))
        self.block = nn.Sequential(
            *(nn.Conv2d(16, 40, 1, bias=False), nn.BatchNorm2d(40), nn.ReLU6(True)),
            *(nn.Conv2d(40, 40, 3, padding=1, groups=40, bias=False), nn.BatchNorm2d(40), nn.ReLU6(True)),
            *(nn.AdaptiveMaxPool2d(4), nn.Conv2d(40, 16, 1, bias=False), nn.BatchNorm2d(16)),
        )
        self.head = nn.Linear(19, 5)

    def forward(self, x: Tensor) -> Tensor:
        pool = nn.functional.adaptive_max_pool2d
        y = self.stem(x)
        y = pool(y, 4) + self.block(y)
        return self.head(torch.cat([pool(x, 4), y], 1).mean((2, 3)))


class Mixed(nn.Module):
    """A module of the body that returns channels of no group before others, which a function reads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Prepended(), nn.ReLU())
        self.head = nn.Linear(3 + 32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flip(2).mean((2, 3)))


class Prepended(nn.Conv2d):
    """A convolution whose input comes before its output."""

    def __init__(self) -> None:
        super().__init__(3, 32, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([input, super().forward(input)], 1)


@torch.no_grad()
@pytest.mark.parametrize("model", [Inverted, Mixed])
@pytest.mark.parametrize("divisor", [4, 8])
def test_widths_may_add_no_channels_to_a_group(model: type[nn.Module], divisor: int) -> None:
    net, x = made(model, divisor)
    assert divisor == 4 or len({config["stem.0"] for config in net.shells.widths if "stem.0" in config}) < 4
    runner = net.progressive()
    for way in (net.nested, net.nested[::2], net.nested[1:]):
        outputs = [runner.start(x, way[0]), *(runner.refine(width) for width in way[1:])]
        for width, output in zip(way, outputs, strict=True):
            torch.testing.assert_close(output, net.subnet(width)(x), rtol=1e-9, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mobilenet_v2", pytest.param("efficientnet_b0", marks=pytest.mark.slow)])
def test_networks_of_torchvision_with_narrow_layers(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    net = aw.Supernet(getattr(torchvision.models, name)(num_classes=10).eval(), x, nested=(0.5, 0.75, 1.0))
    runner = net.progressive()
    for width in net.nested:
        output = runner.start(x) if width == 0.5 else runner.refine()
        torch.testing.assert_close(output, net.subnet(width)(x), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_nothing_is_computed_twice() -> None:
    net, x = made()
    runner = net.progressive()
    with FlopCounterMode(display=False) as steps:
        runner.start(x)
        while runner.next_width is not None:
            runner.refine()
    with FlopCounterMode(display=False) as whole:
        net.model(x)
    assert steps.get_total_flops() < whole.get_total_flops()


@torch.no_grad()
def test_weights_that_change_are_seen() -> None:
    net, x = made()
    runner = net.progressive()
    runner.start(x)
    net.model.a.weight.mul_(2)
    net.model.norm.running_mean.add_(1)
    runner.start(x)
    torch.testing.assert_close(runner.refine(1.0), net.model(x), rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_a_network_that_was_trained_meanwhile_is_evaluated() -> None:
    net, x = made()
    runner = net.progressive()
    runner.start(x)
    net.model.train()
    net.subnet(0.25)
    net.model.eval()
    runner.start(x)
    assert not any(module.training for module in net.subnet(0.25).modules())
    torch.testing.assert_close(runner.refine(0.5), net.subnet(0.5)(x), rtol=1e-9, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("samples", [torch.tensor([2, 0]), torch.tensor([True, False, True])], ids=["numbers", "mask"])
def test_some_samples_go_on(samples: Tensor) -> None:
    net, x = made()
    runner = net.progressive()
    runner.start(x)
    runner.select(samples)
    x[:] = 0  # a buffer that a camera writes to
    again = made()[1]
    torch.testing.assert_close(runner.refine(0.75), net.subnet(0.75)(again[samples]), rtol=1e-9, atol=1e-12)


def test_what_is_asked_for_in_the_wrong_order_is_refused() -> None:
    net, x = made()
    runner = net.progressive()
    with pytest.raises(AnywidthError, match="call start"):
        runner.refine()
    runner.start(x, 0.5)
    with pytest.raises(WidthError, match=r"0\.25 is not wider than 0\.5"):
        runner.refine(0.25)
    runner.refine(1.0)
    with pytest.raises(WidthError, match="at full width already"):
        runner.refine()
    net.model.train()
    with pytest.raises(AnywidthError, match=r"model\.eval"):
        runner.start(x)


def test_networks_that_cannot_be_refined_are_refused() -> None:
    with pytest.raises(WidthError, match="not nested"):
        aw.Supernet(Concatenated(), torch.randn(1, 3, 8, 8)).progressive()
    transposed = nn.Sequential(nn.Conv2d(3, 32, 1), nn.ConvTranspose2d(32, 32, 2, 2), nn.Conv2d(32, 4, 1))
    net = aw.Supernet(transposed, torch.randn(1, 3, 8, 8), nested=(0.5, 1.0))
    with pytest.raises(AnalysisError, match=r"1 \(ConvTranspose2d\) reads channels"):
        net.progressive()
