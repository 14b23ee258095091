"""Soft cross-entropy, and finding logits."""

from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from anywidth.core.errors import LossError
from anywidth.training import logits_of, soft_cross_entropy


def test_equals_the_formula_of_the_paper() -> None:
    student, teacher = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 5, dtype=torch.float64)
    wanted = -(teacher.softmax(1) * student.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(soft_cross_entropy(student, teacher), wanted)


def test_gradient_is_the_difference_of_probabilities() -> None:
    student = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    soft_cross_entropy(student, teacher).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (student.softmax(1) - teacher.softmax(1)).detach() / 7)
    assert teacher.grad is None


def test_temperature_divides_both() -> None:
    student, teacher = torch.randn(7, 5), torch.randn(7, 5)
    wanted = soft_cross_entropy(student / 3, teacher / 3)
    torch.testing.assert_close(soft_cross_entropy(student, teacher, temperature=3.0), wanted)
    assert not torch.isclose(wanted, soft_cross_entropy(student, teacher))


def test_positions_count_like_samples() -> None:
    student, teacher = torch.randn(2, 5, 3, 4), torch.randn(2, 5, 3, 4)
    flat = [t.permute(0, 2, 3, 1).reshape(-1, 5) for t in (student, teacher)]
    torch.testing.assert_close(soft_cross_entropy(student, teacher), soft_cross_entropy(*flat))


def test_the_classes_of_a_language_model_are_in_the_last_dimension() -> None:
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    flat = student.flatten(0, 1), teacher.flatten(0, 1)
    torch.testing.assert_close(soft_cross_entropy(student, teacher, dim=-1), soft_cross_entropy(*flat))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (torch.zeros(4, 1), torch.zeros(4, 1), "single class"),
        (torch.zeros(4, 3), torch.zeros(1, 3), "differ in shape"),
        (torch.zeros(4), torch.zeros(4), "classes from dimension 1, which the output"),
    ],
)
def test_what_has_no_classes_is_refused(student: torch.Tensor, teacher: torch.Tensor, message: str) -> None:
    with pytest.raises(LossError, match=message):
        soft_cross_entropy(student, teacher)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = soft_cross_entropy(logits, torch.tensor([[-1e4, 1e4, 0.0]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


Outputs = namedtuple("Outputs", ["logits", "aux"])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: (t, None),
        lambda t: [t, t + 1],
        lambda t: Outputs(t, t + 1),
        lambda t: {"aux": t + 1, "logits": t},
        lambda t: {"out": t, "aux": t + 1},
        lambda t: {"anything": t},
        lambda t: SimpleNamespace(logits=t),
    ],
)
def test_logits_are_found(wrap) -> None:
    logits = torch.randn(2, 3)
    assert logits_of(wrap(logits)) is logits


def test_several_tensors_in_a_dict_without_the_usual_name_are_refused() -> None:
    output = {"aux": torch.zeros(2, 3), "mask": None, "pred": torch.ones(2, 3)}
    with pytest.raises(
        LossError, match=r"'aux', 'pred', none of them called 'logits'; give a `logits` function.*\['pred'"
    ):
        logits_of(output)
    assert logits_of({"mask": None, "pred": output["pred"]}) is output["pred"]


@pytest.mark.parametrize("output", [None, (), {}, (None, torch.zeros(2)), SimpleNamespace(score=1), "logits"])
def test_missing_logits_are_an_error_that_says_what_to_do(output: object) -> None:
    with pytest.raises(LossError, match="give a `logits` function"):
        logits_of(output)
