"""Tasks that come with the package: losses, distillation, metrics and predictions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import LossError, SettingsError
from anywidth.tasks import (
    Classification,
    MeasuredTask,
    MultiLabel,
    Regression,
    Segmentation,
    SuperResolution,
    TaskFromLoss,
    TokenClassification,
)


def head(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, outputs))


def maps(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, outputs, 3, padding=1))


class TwoHeads(nn.Module):
    """As torchvision's segmentation networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out, self.aux = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 1), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x).relu()
        return {"out": self.out(x), "aux": self.aux(x)}


torch.manual_seed(0)
VECTORS, IMAGES = torch.randn(8, 6), torch.rand(8, 3, 8, 8)
CASES = {
    "classification": (lambda: head(3), VECTORS, torch.arange(8) % 3, Classification(3)),
    "smoothed": (lambda: head(3), VECTORS, torch.arange(8) % 3, Classification(3, label_smoothing=0.1)),
    "multi-label": (lambda: head(4), VECTORS, (torch.rand(8, 4) > 0.5).float(), MultiLabel(4)),
    "yes or no": (lambda: head(1), VECTORS, (torch.rand(8, 1) > 0.5).float(), MultiLabel(1)),
    "regression": (lambda: head(2), VECTORS, torch.randn(8, 2), Regression()),
    "absolute": (lambda: head(1), VECTORS, torch.randn(8, 1), Regression("absolute")),
    "huber": (lambda: head(1), VECTORS, torch.randn(8, 1), Regression("huber", delta=0.5)),
    "segmentation": (lambda: maps(3), IMAGES, torch.randint(3, (8, 8, 8)), Segmentation(3)),
    "two heads": (TwoHeads, IMAGES, torch.randint(3, (8, 8, 8)), Segmentation(3)),
    "smaller output": (
        lambda: nn.Sequential(nn.AvgPool2d(4), maps(3)), IMAGES, torch.randint(3, (8, 8, 8)), Segmentation(3, scale=4)
    ),
    "super-resolution": (
        lambda: nn.Sequential(maps(12), nn.PixelShuffle(2)), IMAGES, torch.rand(8, 3, 16, 16), SuperResolution(2)
    ),
    "tokens": (lambda: head(5), torch.randn(8, 7, 6), torch.randint(5, (8, 7)), TokenClassification(5)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_narrow_widths_learn_from_the_widest(name: str) -> None:
    build, x, y, task = CASES[name]
    torch.manual_seed(0)
    model = build().double()
    x, y = x.double(), y.double() if y.is_floating_point() else y
    net = aw.Supernet(model, x[:2])
    result = aw.sandwich_step(net, x, y, task=task, widths=[1.0, 0.25])
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    whole = model(x)
    task.loss(whole, y).backward()
    teacher = {k: v.detach() for k, v in whole.items()} if isinstance(whole, dict) else whole.detach()
    value = task.distill(net.subnet(0.25)(x), teacher)
    value.backward()
    assert result.losses[1].item() == pytest.approx(value.item())
    assert all(torch.allclose(got[name], parameter.grad) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("name", CASES)
def test_a_student_equal_to_its_teacher_learns_nothing(name: str) -> None:
    build, x, _, task = CASES[name]
    model = build()
    output = model(x)
    task.distill(output, output).backward()
    assert max(float(parameter.grad.abs().max()) for parameter in model.parameters()) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_metrics_take_predictions_and_have_a_direction(name: str) -> None:
    build, x, y, task = CASES[name]
    assert isinstance(task, MeasuredTask)
    with torch.no_grad():
        prediction = task.predict(build()(x))
    for metric in task.metrics().values():
        metric.update(prediction, y)
        assert metric.compute().ndim == 0
        assert isinstance(metric.higher_is_better, bool)


def first(task: MeasuredTask, output: object, target: Tensor) -> float:
    metric = next(iter(task.metrics().values()))
    metric.update(task.predict(output), target)
    return float(metric.compute())


def test_values_of_metrics() -> None:
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert first(Classification(2), logits, torch.tensor([0, 0, 0, 1])) == 75
    assert first(MultiLabel(2), torch.tensor([[3.0, -1.0], [-2.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == 100
    assert first(Regression(), torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]])) == pytest.approx(2**0.5)
    assert first(Regression("absolute"), torch.tensor([[1.0], [3.0]]), torch.tensor([[1.0], [1.0]])) == 1
    # Class 0: 2 of 3 pixels; class 1: 1 of 2; the last pixel does not count.
    maps = F.one_hot(torch.tensor([[[0, 0, 1, 1, 0]]]), 2).movedim(-1, 1).float()
    assert first(Segmentation(2), maps, torch.tensor([[[0, 0, 0, 1, 255]]])) == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    tokens = F.one_hot(torch.tensor([[0, 1, 1]]), 2).float()
    assert first(TokenClassification(2), tokens, torch.tensor([[0, 0, -100]])) == 50


def test_pixels_of_all_images_count_together() -> None:
    # The first image has class 1 in one pixel, which is missed; a mean over images would give it half of the weight.
    output = F.one_hot(torch.zeros(2, 4, 4).long(), 2).movedim(-1, 1).float()
    target = torch.zeros(2, 4, 4).long()
    target[0, 0, 0] = 1
    assert first(Segmentation(2), output, target) == pytest.approx(100 * (31 / 32 + 0) / 2)


def test_psnr_is_that_of_the_luma_without_the_border_and_a_mean_over_images() -> None:
    target = torch.rand(2, 3, 16, 16)
    output = target.clone()
    output[0] += 0.1
    output[1] -= 0.02
    output[:, :, :2] = 0.5  # in the border
    span = 219 / 255
    inside = output.clamp(0, 1)[:, :, 2:-2, 2:-2], target[:, :, 2:-2, 2:-2]
    weights = torch.tensor([65.481, 128.553, 24.966]).view(1, 3, 1, 1) / 255
    error = ((inside[0] - inside[1]) * weights).sum(1).square().flatten(1).mean(1)
    wanted = (-10 * error.log10()).mean()
    assert first(SuperResolution(2), output, target) == pytest.approx(float(wanted), abs=1e-3)
    assert weights.sum().item() == pytest.approx(span)


@pytest.mark.parametrize(
    ("task", "output", "target", "message"),
    [
        (Classification(3), torch.zeros(2, 3), torch.tensor([0, 3]), "class 3"),
        (Classification(3), torch.zeros(2, 3), torch.zeros(2), "targets must be int64 class indices"),
        (MultiLabel(2), torch.zeros(2, 2), torch.tensor([0, 1]), "needs a target in"),
        (Regression(), torch.zeros(2, 1), torch.zeros(2), "broadcast"),
        (Segmentation(3), torch.zeros(2, 3, 4, 4), torch.zeros(2, 8, 8).long(), r"give Segmentation\(scale="),
        (SuperResolution(2), torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 16, 16), "one target per output value"),
        (TokenClassification(3), torch.zeros(2, 4, 3), torch.full((2, 4), 7), r"class 7\b"),
    ],
)
def test_targets_that_do_not_fit_are_refused(task: TaskFromLoss, output: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(LossError, match=message):
        task.check(output, target, values=True)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Classification(1), lambda: MultiLabel(0), lambda: Regression("cubic"), lambda: Segmentation(1),
        lambda: SuperResolution(1.5), lambda: TokenClassification(0),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(build) -> None:
    with pytest.raises(SettingsError):
        build()


def test_a_step_refuses_targets_that_do_not_fit_before_it_learns() -> None:
    model = head(3)
    net = aw.Supernet(model, VECTORS[:2])
    with pytest.raises(LossError, match="class 9"):
        aw.sandwich_step(net, VECTORS, torch.full((8,), 9), task=Classification(3))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_classes_follow_the_output(dtype: torch.dtype) -> None:
    task = Classification(3, weight=torch.tensor([1.0, 2.0, 3.0]))
    output, target = torch.randn(4, 3, dtype=dtype), torch.tensor([0, 1, 2, 2])
    wanted = F.cross_entropy(output, target, weight=torch.tensor([1.0, 2.0, 3.0], dtype=dtype))
    torch.testing.assert_close(task.loss(output, target), wanted)


@pytest.mark.parametrize(
    ("task", "output", "target"),
    [
        (Segmentation(3), torch.randn(2, 3, 4, 4, requires_grad=True), torch.full((2, 4, 4), 255)),
        (TokenClassification(3), torch.randn(2, 4, 3, requires_grad=True), torch.full((2, 4), -100)),
    ],
)
def test_a_batch_in_which_nothing_counts_teaches_nothing(task, output: Tensor, target: Tensor) -> None:
    for value in (task.loss(output, target), task.distill(output, torch.randn_like(output), target)):
        assert float(value.detach()) == 0
        value.backward()
    assert float(output.grad.abs().max()) == 0


def test_masks_of_bytes_are_refused_with_the_way_out() -> None:
    with pytest.raises(LossError, match=r"use target\.long\(\)"):
        Segmentation(3).check(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8), values=True)
