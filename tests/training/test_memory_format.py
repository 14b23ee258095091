"""Strided convolutions with kernel 1 and few channels, whose gradients oneDNN computes wrongly with channels last."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import TrainingError
from anywidth.core.onednn import is_channels_last, strided_pointwise
from anywidth.models import channels_last_
from anywidth.runs import supernet
from anywidth.runs.settings import ModelSettings, WidthSettings
from anywidth.training.lightning import PlainModule, SandwichModule
from built_once import built_once

LAST = torch.channels_last


class Shortcut(nn.Module):
    """A small residual network."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(channels, 2 * channels, 1, stride=2)
        self.classifier = nn.Linear(2 * channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.classifier((self.body(x) + self.shortcut(x)).relu().mean((2, 3)))


@built_once
def supernet_of(channels: int = 16, **options: object) -> aw.Supernet:
    return aw.Supernet(Shortcut(channels), torch.randn(1, 3, 16, 16), **{"divisor": 4, **options})  # type: ignore[arg-type]


def batch(size: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 16, 16), torch.arange(size) % 10


@pytest.fixture
def without_backward(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test with this fixture runs the backward pass, which might crash the interpreter."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("backward has been called")

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "backward", fail)
        yield


def to_format(model: nn.Module, layout: torch.memory_format = LAST) -> None:
    model.to(memory_format=layout)  # type: ignore[call-overload]


# A wrong memory format may hang or crash the process, so the gradients are compared in another one.
COMPARED = """
import copy, torch
import anywidth as aw
from anywidth.runs import supernet
from anywidth.runs.settings import ModelSettings, WidthSettings
from training.test_memory_format import Shortcut, batch

supernet.build_model = lambda *_, **__: Shortcut()
net = supernet.build_supernet(
    ModelSettings(name="mine"), WidthSettings(divisor=4, min_width=0.25), input_shape=(3, 16, 16), classes=10
)
assert net.subnet(0.25).shortcut.in_channels == 4
reference = aw.Supernet(copy.deepcopy(net.model).double(), torch.randn(1, 3, 16, 16).double(), divisor=4)
for step, threads in ((step, threads) for threads in (1, 2) for step in range(3)):
    torch.set_num_threads(threads)
    x, y = batch(32)
    for each, images in ((net, x), (reference, x.double())):
        each.model.zero_grad()
        aw.sandwich_step(each, images, y, widths=[1.0, 0.25])
    for (name, a), b in zip(net.model.named_parameters(), reference.model.parameters(), strict=True):
        error = ((a.grad.double() - b.grad).norm() / b.grad.norm()).item()
        assert error < 1e-4, (step, threads, name, error)
print("equal")
"""


@pytest.mark.slow
def test_gradients_of_a_narrow_shortcut_are_those_of_float64() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", COMPARED], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "equal"


@pytest.mark.parametrize(
    ("channels", "settings", "last"),
    [
        (16, WidthSettings(divisor=4, min_width=0.25), False),
        (16, WidthSettings(divisor=4, switches=(0.5, 1.0)), False),
        (16, WidthSettings(divisor=4, min_width=1.0), True),
        (64, WidthSettings(min_width=0.25), True),
        (16, WidthSettings(divisor=4, nested=(0.5, 1.0)), True),  # convolutions run at full width
        (8, WidthSettings(divisor=4, nested=(0.5, 1.0)), False),
    ],
    ids=["narrow", "switches", "full", "wide", "nested", "narrow nested"],
)
def test_a_run_uses_channels_last_where_gradients_are_right(
    monkeypatch: pytest.MonkeyPatch, channels: int, settings: WidthSettings, last: bool
) -> None:
    monkeypatch.setattr(supernet, "build_model", lambda *_, **__: Shortcut(channels))
    net = supernet.build_supernet(ModelSettings(name="mine"), settings, input_shape=(3, 16, 16), classes=10)
    assert [is_channels_last(p) for p in net.model.parameters() if p.ndim == 4] == 3 * [last]


def test_images_of_three_channels_count() -> None:
    model = channels_last_(nn.Sequential(nn.Conv2d(3, 64, 1, stride=2), nn.Conv2d(64, 64, 3)))
    assert not any(is_channels_last(parameter) for parameter in model.parameters())


def test_which_convolutions_are_affected() -> None:
    convolutions = [
        nn.Conv2d(4, 8, 1, stride=2),
        nn.Conv2d(4, 8, 1, stride=(1, 2)),
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(4, 8, 3, stride=2),
        nn.Conv2d(4, 8, 1, stride=2, groups=2),
        nn.Conv1d(4, 8, 1, stride=2),
        nn.Conv3d(4, 8, 1, stride=2),
    ]
    assert strided_pointwise(nn.Sequential(*convolutions)) == ("0", "1")


@pytest.mark.parametrize("shape", [(8, 4, 1, 1), (8, 4, 3, 3), (8, 1, 3, 3), (1, 4, 5, 1)])
def test_the_format_is_read_from_strides_and_can_be_undone(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    last = tensor.to(memory_format=LAST)
    assert not is_channels_last(tensor)
    assert is_channels_last(last) == (shape[1] > 1 or last.stride() != tensor.stride())
    assert not is_channels_last(last.to(memory_format=torch.contiguous_format))


@pytest.mark.usefixtures("without_backward")
def test_steps_refuse_channels_last_weights_and_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch()
    net = supernet_of()
    with pytest.raises(
        TrainingError, match=r"'shortcut'.* reads 4 channels at width 0\.25, and the inputs.*6035"
    ) as it:
        aw.sandwich_step(net, x.to(memory_format=LAST), y, widths=[1.0, 0.25])
    assert "inputs.to(memory_format=torch.contiguous_format)" in str(it.value)
    to_format(net.model)
    with pytest.raises(TrainingError, match="the weights of 'stem' are stored with channels last"):
        aw.sandwich_step(net, x, y, widths=[1.0, 0.25])
    with pytest.raises(TrainingError, match="'shortcut'"), torch.autocast("cpu", dtype=torch.bfloat16):
        aw.sandwich_step(net, x, y)
    module = SandwichModule(net)
    monkeypatch.setattr(module, "_step", lambda add_gradients, *_: add_gradients(1.0))  # without a trainer
    with pytest.raises(TrainingError, match="'shortcut'"):
        module.training_step((x, y), 0)
    nested = supernet_of(8, nested=(0.5, 1.0))
    to_format(nested.model)
    with pytest.raises(TrainingError, match="reads 8 channels at width 1"):
        aw.nested_step(nested, x, y)


@pytest.mark.usefixtures("without_backward")
def test_compiled_subnets_are_refused_because_the_compiler_uses_channels_last() -> None:
    execution = aw.training.Execution(wrap=lambda subnet: subnet)
    with pytest.raises(TrainingError, match=r"torch\.compile.*do not compile"):
        aw.sandwich_step(supernet_of(), *batch(), widths=[1.0, 0.25], execution=execution)


def test_steps_accept_what_is_computed_right() -> None:
    x, y = batch()
    net = supernet_of()
    to_format(net.model)
    aw.sandwich_step(net, x, y, widths=[1.0])  # 16 channels
    net.model.shortcut.weight.requires_grad_(False)  # type: ignore[union-attr]
    net.model.shortcut.bias.requires_grad_(False)  # type: ignore[union-attr]
    aw.sandwich_step(net, x, y, widths=[1.0, 0.25])
    net = supernet_of()
    to_format(net.model)
    to_format(net.model, torch.contiguous_format)
    aw.sandwich_step(net, x, y, widths=[1.0, 0.25])
    net.model.double()
    to_format(net.model)
    aw.sandwich_step(net, x.double(), y, widths=[1.0, 0.25])  # oneDNN does not compute float64
    wide = supernet_of(64)
    to_format(wide.model)
    aw.sandwich_step(wide, x.to(memory_format=LAST), y, widths=[1.0, 0.25])


@pytest.mark.usefixtures("without_backward")
def test_a_convolution_that_replaced_another_one_is_found() -> None:
    net = supernet_of()
    net.model.shortcut = nn.Conv2d(16, 32, 3, stride=2, padding=1)
    x, y = batch()
    x = x.to(memory_format=LAST)
    with pytest.raises(AssertionError, match="backward has been called"):
        aw.sandwich_step(net, x, y, widths=[1.0, 0.25], backward=lambda loss: loss.backward())
    net.model.shortcut = nn.Conv2d(16, 32, 1, stride=2)
    with pytest.raises(TrainingError, match="'shortcut'"):
        aw.sandwich_step(net, x, y, widths=[1.0, 0.25])


@pytest.mark.usefixtures("without_backward")
def test_a_plain_network_is_refused_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch()

    def step(model: nn.Module, x: Tensor) -> None:
        module = PlainModule(model, loss=nn.functional.cross_entropy)
        monkeypatch.setattr(module, "manual_backward", lambda loss: loss.backward())
        monkeypatch.setattr(module, "_step", lambda add_gradients, *_: add_gradients(1.0))  # without a trainer
        module.training_step((x, y), 0)

    model = Shortcut(8)
    with pytest.raises(TrainingError, match=r"'shortcut'.* reads 8 channels, and the inputs.*6035"):
        step(model, x.to(memory_format=LAST))
    with pytest.raises(AssertionError, match="backward has been called"):
        step(model, x)
    to_format(model)
    with pytest.raises(TrainingError, match=r"the weights of 'stem' .*call model\.to\(memory_format=torch\.contiguous"):
        step(model, x)
    wide = Shortcut(16)
    to_format(wide)
    with pytest.raises(AssertionError, match="backward has been called"):
        step(wide, x)


def test_channels_last_is_undone_where_it_is_not_safe() -> None:
    model = Shortcut(8)
    to_format(model)
    channels_last_(model)
    assert not any(is_channels_last(parameter) for parameter in model.parameters())
