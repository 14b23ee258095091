"""Tasks, several tensors with a distillation each, and that all entry points understand a loss alike."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import LossError
from anywidth.search import Evaluator, SearchData
from anywidth.tasks import Task, detached, objective_of
from anywidth.training import soft_cross_entropy
from anywidth.training.lightning import PlainModule, SandwichModule

X, LABELS, BOXES = torch.randn(8, 6), torch.arange(8) % 3, torch.randn(8, 4)


class TwoHeads(nn.Module):
    """A class and a box, in an object, a dict or a tuple."""

    def __init__(self, form: str = "dict") -> None:
        super().__init__()
        self.body, self.label, self.box = nn.Linear(6, 16), nn.Linear(16, 3), nn.Linear(16, 4)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        h = self.body(x).relu()
        label, box = self.label(h), self.box(h)
        return (label, box) if self.form == "tuple" else {"logits": label, "box": box}


class Detection:
    """Both heads."""

    def loss(self, output: Any, target: Any) -> Tensor:
        return F.cross_entropy(output["logits"], target[0]) + F.mse_loss(output["box"], target[1])

    def distill(self, output: Any, teacher: Any) -> Tensor:
        assert not teacher["logits"].requires_grad
        return soft_cross_entropy(output["logits"], teacher["logits"]) + F.l1_loss(output["box"], teacher["box"])


class Masked(Detection):
    """Distils some samples only."""

    def distill(self, output: Any, teacher: Any, target: Any) -> Tensor:
        return F.mse_loss(output["box"][target[0] == 0], teacher["box"][target[0] == 0])


def test_a_task_brings_loss_and_distillation() -> None:
    net = aw.Supernet(TwoHeads(), X)
    task = Detection()
    assert isinstance(task, Task)
    result = aw.sandwich_step(net, X, (LABELS, BOXES), task=task, widths=[1.0, 0.5])
    found = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    net.model.zero_grad()
    widest, narrow = net.model(X), net.subnet(0.5)(X)
    losses = [task.loss(widest, (LABELS, BOXES)), task.distill(narrow, detached(widest))]
    torch.testing.assert_close(result.losses, torch.stack(losses).detach())
    sum(losses).backward()  # type: ignore[union-attr]
    for gradient, parameter in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


def test_a_distillation_that_asks_for_the_targets_gets_them() -> None:
    net = aw.Supernet(TwoHeads(), X)
    result = aw.sandwich_step(net, X, (LABELS, BOXES), task=Masked(), widths=[1.0, 0.5])
    kept = LABELS == 0
    wanted = F.mse_loss(net.subnet(0.5)(X)["box"][kept], net.model(X)["box"][kept])
    torch.testing.assert_close(result.losses[1], wanted.detach())

    def distillation(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        return (F.mse_loss(student, teacher, reduction="none").mean(1) * (target[0] == 0)).sum()

    result = aw.sandwich_step(
        net, X, (LABELS, BOXES), loss=Detection().loss, distillation=distillation, widths=[1.0, 0.5],
        logits=lambda output: output["box"],
    )  # fmt: skip
    torch.testing.assert_close(result.losses[1], wanted.detach() * kept.sum())


def test_a_task_trains_all_widths_on_the_targets_if_told() -> None:
    net = aw.Supernet(TwoHeads(), X)
    result = aw.sandwich_step(net, X, (LABELS, BOXES), task=Detection(), distillation=None, widths=[1.0, 0.5])
    wanted = Detection().loss(net.subnet(0.5)(X), (LABELS, BOXES))
    torch.testing.assert_close(result.losses[1], wanted.detach())


@pytest.mark.parametrize(
    "given", [{"loss": F.mse_loss}, {"distillation": F.mse_loss}, {"logits": lambda output: output}]
)
def test_a_task_stands_alone(given: dict[str, Any]) -> None:
    with pytest.raises(LossError, match=f"leave out {next(iter(given))}, or leave out the task"):
        objective_of(**{"loss": None, **given}, task=Detection())
    with pytest.raises(LossError, match="task= is the class Detection"):
        objective_of(None, task=Detection)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_several_tensors_with_a_distillation_each(form: str) -> None:
    net = aw.Supernet(TwoHeads(form), X)
    keys: Any = ("logits", "box") if form == "dict" else (0, 1)
    options: list[tuple[Any, float, float]] = [("auto", 1.0, 0.0), (None, 0.0, 0.0), (F.mse_loss, 0.0, 1.0)]
    with torch.no_grad():
        teacher, student = net.model(X), net.subnet(0.5)(X)
    soft = soft_cross_entropy(student[keys[0]], teacher[keys[0]])
    squared = F.mse_loss(student[keys[0]], teacher[keys[0]])
    boxes = F.l1_loss(student[keys[1]], teacher[keys[1]])
    for first, of_soft, of_squared in options:
        distillation: Any = (first, F.l1_loss) if form == "tuple" else {"logits": first, "box": F.l1_loss}
        result = aw.sandwich_step(
            net, X, LABELS, widths=[1.0, 0.5], logits=lambda output: output, distillation=distillation
        )
        torch.testing.assert_close(result.losses[0], F.cross_entropy(teacher[keys[0]], LABELS))
        torch.testing.assert_close(result.losses[1], of_soft * soft + of_squared * squared + boxes)


def test_one_distillation_of_all_tensors() -> None:
    """Such as of feature maps, from a teacher that is another network."""
    net, other = aw.Supernet(TwoHeads(), X), TwoHeads()

    def distillation(student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
        assert not any(tensor.requires_grad for tensor in teacher.values())
        return F.mse_loss(student["box"], teacher["box"])

    result = aw.sandwich_step(
        net, X, LABELS, widths=[1.0, 0.5], logits=lambda output: output, distillation=distillation, teacher=other
    )
    wanted = F.mse_loss(net.subnet(0.5)(X)["box"], other(X)["box"])
    torch.testing.assert_close(result.losses[1], wanted.detach())


@pytest.mark.parametrize(
    ("distillation", "message"),
    [
        ({"logits": F.mse_loss}, r"given for \['logits'\], but logits= returns a dict of \['logits', 'box'\]"),
        ((F.mse_loss, F.mse_loss), r"given for \[0, 1\]"),
        ({"logits": {"a": F.mse_loss}, "box": None}, "needs a function, 'auto' or None"),
    ],
)
def test_distillations_that_do_not_match(distillation: Any, message: str) -> None:
    net = aw.Supernet(TwoHeads(), X)
    with pytest.raises(LossError, match=message):
        aw.sandwich_step(net, X, LABELS, logits=lambda output: output, distillation=distillation)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_automatic_part_needs_a_known_loss_too() -> None:
    net = aw.Supernet(TwoHeads(), X)
    with pytest.raises(LossError, match="does not follow from the loss <lambda>"):
        aw.sandwich_step(
            net, X, LABELS, loss=lambda output, target: output["logits"].mean(), logits=lambda output: output,
            distillation={"logits": "auto", "box": F.mse_loss},
        )  # fmt: skip


def test_objects_are_detached_as_well() -> None:
    weight = torch.ones(2, requires_grad=True)
    output = SimpleNamespace(logits=weight * 2, more=[weight * 3], name="x")
    found = detached(output)
    assert (found.logits.requires_grad, found.more[0].requires_grad, found.name) == (False, False, "x")
    assert output.logits.requires_grad


# -- every entry point understands a loss alike ------------------------------------------------------------

SEEN: list[Any] = []


def looks(output: Any, target: Any) -> Tensor:
    """A loss of a user, which gets what the model returned."""
    SEEN.append((type(output).__name__, sorted(output)))
    return F.cross_entropy(output["logits"], target)


def losses_of(**options: Any) -> list[float]:
    """The loss of the widest network in a step, in a step of the Lightning modules, and in a search."""
    torch.manual_seed(0)
    net = aw.Supernet(TwoHeads(), X)
    step = aw.sandwich_step(net, X, LABELS, widths=[1.0, 0.5], distillation=None, **options).losses[0]
    module = SandwichModule(net, widths=[1.0, 0.5], distillation=None, **options)
    plain = PlainModule(net.model, **options)
    found = [float(step)]
    for one, key in ((module, "loss_widest"), (plain, "loss")):
        one._step = lambda add, size, number: add(1.0)  # type: ignore[method-assign,assignment]
        one.manual_backward = lambda value: value.backward()  # type: ignore[method-assign,assignment]
        found.append(float(one.training_step((X, LABELS), 0)[key]))
    data = SearchData.of([(X, LABELS)], [(X, LABELS)])
    score = Evaluator(net, data, score=lambda output, target: target.float(), **options)(net.config(1.0))
    return [*found, score.loss]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": nn.CrossEntropyLoss(label_smoothing=0.1)},
        {"loss": nn.MultiMarginLoss()},
        {"loss": partial(F.cross_entropy, weight=torch.tensor([1.0, 2.0, 3.0]))},
        {"loss": looks},
        {"logits": lambda output: output["logits"] * 2},
        {"task": SimpleNamespace(loss=looks, distill=lambda output, teacher: output["box"].mean())},
    ],
)
def test_all_entry_points_compute_the_same_loss(options: dict[str, Any]) -> None:
    SEEN.clear()
    first, *others = losses_of(**options)
    assert others == pytest.approx([first] * 3, rel=1e-5)
    assert len(set(map(str, SEEN))) <= 1


def test_modules_refuse_when_they_are_made() -> None:
    net = aw.Supernet(TwoHeads(), X)
    with pytest.raises(LossError, match="does not follow from the loss looks"):
        SandwichModule(net, loss=looks)
    with pytest.raises(LossError, match="reduction 'none'"):
        PlainModule(net.model, loss=nn.MSELoss(reduction="none"))
    SandwichModule(net, loss=looks, widths=[1.0])
    SandwichModule(net, loss=looks, distillation=None)


def test_a_wrong_label_stops_every_entry_point() -> None:
    net = aw.Supernet(TwoHeads(), X)
    wrong = LABELS + 1
    module = PlainModule(net.model)
    module._step = lambda add, size, number: add(1.0)  # type: ignore[method-assign,assignment]
    for call in (
        lambda: aw.sandwich_step(net, X, wrong),
        lambda: aw.evaluate(net, [(X, wrong)]),
        lambda: aw.spectrum(net, [(X, wrong)], [1.0]),
        lambda: aw.autoslim(net, [(X, wrong)], "60%"),
        lambda: module.training_step((X, wrong), 0),
    ):
        with pytest.raises(LossError, match=r"class 3\b.* the output has 3 classes, numbered 0 to 2"):
            call()
