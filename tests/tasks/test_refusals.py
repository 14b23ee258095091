"""Outputs, targets and losses that do not fit: one error, before any gradient was added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import LossError
from anywidth.tasks import objective_of
from anywidth.training import soft_cross_entropy
from built_once import built_once

X = torch.randn(4, 6)


@built_once
def mlp(outputs: int) -> aw.Supernet:
    return aw.Supernet(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs)), X)


class Language(nn.Module):
    """Logits of shape (batch, tokens, vocabulary)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(7, 16), nn.Linear(16, 16), nn.Linear(16, 7)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.hidden(self.embed(ids)).relu())


@dataclass
class Output:
    """As language models return it."""

    logits: Tensor


LONG = torch.tensor([0, 1, 2, 0])
BCE = F.binary_cross_entropy_with_logits
TARGETS = [
    (F.cross_entropy, (4, 3), torch.tensor([0, 1, 3, 0]), "class 3 as a target, but the output has 3 classes.* 0 to 2"),
    (F.cross_entropy, (4, 3), torch.tensor([0, -1, 2, 0]), "class -1 as a target, but the output has 3 classes"),
    (nn.CrossEntropyLoss(ignore_index=-1), (4, 3), torch.tensor([0, -1, -100, 0]), "class -100 .*-1 is ignored"),
    (F.cross_entropy, (4, 3), LONG.float(), r"not float32 of shape \(4,\): use target.long\(\)"),
    (F.cross_entropy, (4, 3), LONG.int(), r"not int32 of shape \(4,\): use target.long\(\)"),
    (F.cross_entropy, (4, 3), LONG.bool(), "not bool"),
    (F.cross_entropy, (4, 3), LONG[:, None], r"int64 of shape \(4, 1\): use target.squeeze\(-1\)"),
    (F.cross_entropy, (4, 3, 5, 5), torch.zeros(4, 1, 5, 5).long(), r"use target.squeeze\(1\)"),
    (F.cross_entropy, (4, 3), torch.full((4, 3), -2.0), "as class probabilities, but got -2; .* mse_loss"),
    (F.cross_entropy, (4, 3), torch.full((4, 3), float("nan")), "got nan"),
    (F.cross_entropy, (4, 3), LONG[:2], r"int64 class indices of shape \(4,\), not int64 of shape \(2,\)"),
    (F.cross_entropy, (4, 3), F.one_hot(LONG, 3), r"use target.float\(\), or class indices by target.argmax\(1\)"),
    (F.cross_entropy, (4, 3), F.one_hot(LONG, 3).bool(), r"use target.float\(\)"),
    (F.cross_entropy, (4, 3), None, "the targets are NoneType"),
    (F.cross_entropy, (4, 3), LONG.tolist(), "the targets are list"),
    (F.cross_entropy, (4, 3), {"class": LONG}, "the targets are dict"),
    (F.cross_entropy, (4, 1), torch.zeros(4).long(), r"dimension 1 of the output \(4, 1\).*single class"),
    (
        F.cross_entropy,
        (4, 3, 8, 8),
        torch.zeros(4, 8, 7).long(),
        r"int64 class indices of shape \(4, 8, 8\), not .* \(4, 8, 7\)",
    ),
    (F.cross_entropy, (4, 5, 7), torch.zeros(4, 5).long(), r"dimension 1 of the output \(4, 5, 7\).*transpose\(1, 2\)"),
    (F.cross_entropy, (4, 8, 8, 3), torch.zeros(4, 8, 8).long(), r"permute\(0, 3, 1, 2\)"),
    (F.nll_loss, (4, 3), torch.rand(4, 3), "class indices"),
    (F.nll_loss, (4, 3), torch.tensor([0, 1, 5, 0]), "class 5"),
    (
        nn.NLLLoss(),
        (4, 3),
        LONG,
        "log-probabilities, which are at most 0, but the output has .* log_softmax, or use cross",
    ),
    (F.mse_loss, (4, 1), torch.zeros(4), r"\(4, 1\) and the targets are \(4,\).*target.view\(4, 1\)"),
    (F.mse_loss, (4,), torch.zeros(4, 1), r"\(4,\) and the targets are \(4, 1\), which torch would broadcast"),
    (F.l1_loss, (4, 3), torch.zeros(4, 1), r"\(4, 3\) and the targets are \(4, 1\)"),
    (F.mse_loss, (4, 1), torch.zeros(4, 1).long(), r"not int64 of shape \(4, 1\): use target.float\(\)"),
    (nn.SmoothL1Loss(), (4, 1), torch.zeros(4, 1).bool(), r"not bool of shape"),
    (F.huber_loss, (4, 1), torch.zeros(4, 1).double(), "float64"),
    (BCE, (4, 1), torch.zeros(4), r"target.view\(4, 1\)"),
    (BCE, (4, 3), LONG, r"one_hot\(target, 3\).float\(\), or cross_entropy"),
    (BCE, (4, 3), F.one_hot(LONG, 3), r"use target.float\(\)"),
    (BCE, (4, 1), LONG[:, None].float(), r"got the target 2; targets must be probabilities in \[0, 1\]"),
    (nn.BCEWithLogitsLoss(), (4, 1), torch.full((4, 1), -0.5), "got the target -0.5"),
]


@pytest.mark.parametrize(("loss", "shape", "target", "message"), TARGETS)
def test_targets_that_do_not_fit(loss: Any, shape: tuple[int, ...], target: Any, message: str) -> None:
    objective = objective_of(loss)
    with pytest.raises(LossError, match=message):
        objective.check(torch.randn(shape), target, values=True)


FITTING = [
    (F.cross_entropy, (4, 3), torch.tensor([0, -100, 2, 0])),
    (F.cross_entropy, (4, 3), torch.tensor([0, 1, 2, 0], dtype=torch.uint8)),
    (F.cross_entropy, (4, 3), torch.rand(4, 3)),  # mixed labels
    (F.cross_entropy, (4, 3, 8, 8), torch.zeros(4, 8, 8).long()),
    (F.cross_entropy, (4, 5, 5), torch.zeros(4, 5).long()),  # torch's convention, whatever it means
    (F.cross_entropy, (3,), torch.tensor(1)),
    (F.cross_entropy, (0, 3), torch.zeros(0).long()),
    (partial(F.cross_entropy, ignore_index=9), (4, 3), torch.tensor([0, 9, 2, 0])),
    (F.mse_loss, (4, 1), torch.zeros(4, 1).double()),
    (BCE, (4, 3), torch.rand(4, 3)),
]


@pytest.mark.parametrize(("loss", "shape", "target"), FITTING)
def test_targets_that_fit(loss: Any, shape: tuple[int, ...], target: Tensor) -> None:
    output = torch.randn(shape)
    objective_of(loss).check(output, target, values=True)
    torch.testing.assert_close(objective_of(loss).value(output, target), loss(output, target), equal_nan=True)


def test_numbers_are_looked_at_only_when_asked() -> None:
    """On a GPU that would be a wait in every step."""
    objective_of(F.cross_entropy).check(torch.randn(1, 3), torch.tensor([5]), values=False)


STEPS: list[tuple[Callable[[], aw.Supernet], Tensor, Any, dict[str, Any], str]] = [
    (lambda: mlp(3), X, torch.tensor([0, 1, 3, 0]), {}, "class 3"),
    (lambda: mlp(1), X, torch.zeros(4).long(), {}, "single class"),
    (lambda: mlp(1), X, torch.zeros(4), {"loss": F.mse_loss}, "broadcast"),
    (lambda: aw.Supernet(Language(), LONG[None]), LONG[None], LONG[None], {}, r"\(1, 4, 7\).*transpose"),
    (lambda: mlp(3), X, LONG, {"loss": lambda o, t: F.cross_entropy(o, t)}, "follow from the loss <lambda> .test_ref"),
    (lambda: mlp(3), X, LONG, {"loss": nn.MultiMarginLoss()}, "MultiMarginLoss.*distillation=None.*task="),
    (lambda: mlp(3), X, LONG, {"loss": 3}, "loss is int"),
    (lambda: mlp(3), X, LONG, {"distillation": "soft"}, "distillation is 'soft'"),
    (lambda: mlp(3), X, LONG, {"distillation": F.kl_div}, "kl_div would read the teacher's logits as labels"),
    (lambda: mlp(3), X, LONG, {"distillation": (F.mse_loss,)}, r"given for \[0\], but logits= returns a float32"),
    (lambda: mlp(3), X, LONG, {"distillation": {}}, "several tensors needs"),
    (lambda: mlp(3), X, LONG, {"loss": lambda o, t: 1.0, "distillation": None}, "returned float"),
    (
        lambda: mlp(3),
        X,
        LONG,
        {"loss": lambda o, t: o.mean(1), "distillation": None},
        r"returned float32 of shape \(4,\)",
    ),
    (lambda: mlp(3), X, LONG, {"teacher": lambda x: torch.zeros(4, 5)}, r"\(4, 5\) and the student's \(4, 3\)"),
    (lambda: mlp(3), X, LONG, {"task": F.cross_entropy}, "task= is a function"),
    (lambda: mlp(3), X, LONG, {"logits": lambda o: (o, o)}, "tuple.*a single tensor.*a tuple or dict"),
]


@pytest.mark.parametrize(
    ("build", "x", "y", "options", "message"), STEPS, ids=lambda v: v if isinstance(v, str) else ""
)
def test_nothing_is_learnt(build: Any, x: Tensor, y: Any, options: dict[str, Any], message: str) -> None:
    net = build()
    with pytest.raises(LossError, match=message):
        aw.sandwich_step(net, x, y, widths=[1.0, 0.5], **options)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_single_width_needs_no_distillation() -> None:
    net = mlp(3)
    aw.sandwich_step(net, X, LONG, loss=lambda o, t: F.cross_entropy(o, t), widths=[1.0])
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("target", [torch.zeros(2, 7).long(), torch.zeros(2, 5).long()])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": nn.CrossEntropyLoss()},
        {"loss": lambda o, t: o.logits.mean(), "distillation": soft_cross_entropy},
        {"loss": lambda o, t: o.logits.mean(), "distillation": F.cross_entropy},
    ],
    ids=["default", "module", "soft", "named"],
)
def test_tokens_are_never_taken_as_classes(options: dict[str, Any], target: Tensor) -> None:
    """Also where there are as many tokens as words, so that the shapes fit."""
    output = Output(torch.randn(2, 7, 7))
    with pytest.raises(LossError, match=r"Output.logits of shape \(2, 7, 7\).*output.logits.transpose\(1, 2\)"):
        objective_of(**{"loss": None, **options}).check(output, target, values=True)


def test_who_says_where_the_classes_are_is_believed() -> None:
    output, ids = Output(torch.randn(2, 7, 9)), torch.randint(9, (2, 7))
    objective = objective_of(None, logits=lambda output: output.logits.transpose(1, 2))
    objective.check(output, ids, values=True)
    flat = output.logits.flatten(0, 1)
    torch.testing.assert_close(objective.value(output, ids), F.cross_entropy(flat, ids.flatten()))
    student = Output(torch.randn(2, 7, 9))
    wanted = soft_cross_entropy(student.logits.flatten(0, 1), flat)
    torch.testing.assert_close(objective.distill(student, objective.teach(output), ids), wanted)


def test_failures_of_torch_name_what_was_compared() -> None:
    with pytest.raises(
        LossError, match=r"MultiMarginLoss failed on an output of float32 of shape \(4, 3\) and targets"
    ):
        objective_of(nn.MultiMarginLoss(), distillation=None).value(torch.randn(4, 3), torch.zeros(5).long())
