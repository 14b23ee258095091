"""What follows from a loss: its distillation, with all of its arguments, against values computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.core.errors import LossError
from anywidth.tasks import distillation_of, loss_name, recognise, soft_cross_entropy

STUDENT, TEACHER = [[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]], [[1.0, 0.0, 0.5], [-1.0, 2.0, 0.0]]


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


S, T, W = double(STUDENT), double(TEACHER), double([1.0, 2.0, 0.5])
P, LOG_Q = T.softmax(1), S.log_softmax(1)
ROWS = -(P * LOG_Q).sum(1)
"""Cross-entropy of every sample."""

# Differences are -1, 1, -2.5 and 4, -1.5, 0, so squares add up to 26.5 and absolute values to 10.


def huber(error: Tensor, delta: float) -> Tensor:
    return torch.where(error.abs() <= delta, 0.5 * error**2, delta * (error.abs() - 0.5 * delta))


def smooth(error: Tensor, beta: float) -> Tensor:
    return torch.where(error.abs() < beta, 0.5 * error**2 / beta, error.abs() - 0.5 * beta)


def binary(student: Tensor, soft: Tensor, positive: float | Tensor = 1.0) -> Tensor:
    return -(positive * soft * student.sigmoid().log() + (1 - soft) * (1 - student.sigmoid()).log())


CASES: list[tuple[Callable[..., Tensor], Tensor]] = [
    (F.cross_entropy, ROWS.mean()),
    (nn.CrossEntropyLoss(), ROWS.mean()),
    (partial(F.cross_entropy, reduction="sum"), ROWS.sum()),
    (partial(F.cross_entropy, size_average=False), ROWS.sum()),
    (partial(partial(F.cross_entropy, weight=W), reduction="sum"), -(P * LOG_Q * W).sum()),
    (nn.CrossEntropyLoss(weight=W), -(P * LOG_Q * W).sum() / 2),
    (nn.CrossEntropyLoss(label_smoothing=0.3), ROWS.mean()),  # a teacher's probabilities are smooth already
    (nn.CrossEntropyLoss(ignore_index=1, reduction="sum"), ROWS.sum()),
    (F.mse_loss, double(26.5 / 6)),
    (nn.MSELoss(), double(26.5 / 6)),
    (nn.MSELoss(reduction="sum"), double(26.5)),
    (F.l1_loss, double(10.0 / 6)),
    (nn.L1Loss(reduction="sum"), double(10.0)),
    (F.huber_loss, huber(S - T, 1.0).mean()),
    (nn.HuberLoss(delta=2.0), huber(S - T, 2.0).mean()),
    (partial(F.huber_loss, delta=2.0, reduction="sum"), huber(S - T, 2.0).sum()),
    (F.smooth_l1_loss, smooth(S - T, 1.0).mean()),
    (nn.SmoothL1Loss(beta=3.0), smooth(S - T, 3.0).mean()),
    (F.binary_cross_entropy_with_logits, binary(S, T.sigmoid()).mean()),
    (nn.BCEWithLogitsLoss(pos_weight=W), binary(S, T.sigmoid(), W).mean()),
    (nn.BCEWithLogitsLoss(weight=W, reduction="sum"), (binary(S, T.sigmoid()) * W).sum()),
]


@pytest.mark.parametrize(("loss", "wanted"), CASES, ids=lambda value: loss_name(value) if callable(value) else "")
def test_value(loss: Callable[..., Tensor], wanted: Tensor) -> None:
    student, teacher = S.clone().requires_grad_(), T.clone()
    distill = distillation_of(loss)
    assert distill is not None
    value = distill(student, teacher)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    value.backward()
    assert student.grad is not None
    assert float(student.grad.abs().sum()) > 0


def test_old_arguments_are_understood() -> None:
    for given, wanted in (({"size_average": True}, ROWS.mean()), ({"size_average": False}, ROWS.sum())):
        distill = distillation_of(partial(F.cross_entropy, reduce=True, **given))
        assert distill is not None
        torch.testing.assert_close(distill(S, T), wanted)


def test_probabilities_and_log_probabilities() -> None:
    p, q = T.sigmoid(), S.sigmoid()
    (of_probabilities, of_log) = (distillation_of(loss) for loss in (nn.BCELoss(), F.nll_loss))
    assert of_probabilities is not None
    assert of_log is not None
    torch.testing.assert_close(of_probabilities(q, p), binary(S, p).mean())
    torch.testing.assert_close(of_log(LOG_Q, T.log_softmax(1)), ROWS.mean())
    weighted = distillation_of(nn.NLLLoss(weight=W, reduction="sum"))
    assert weighted is not None
    torch.testing.assert_close(weighted(LOG_Q, T.log_softmax(1)), -(P * LOG_Q * W).sum())


def test_the_default_is_the_soft_cross_entropy_of_the_paper_to_the_bit() -> None:
    distill = distillation_of(F.cross_entropy)
    assert distill is not None
    for shape, target in (((37, 10), (37,)), ((5, 7, 6, 3), (5, 6, 3))):
        for dtype in (torch.float32, torch.bfloat16):
            student, teacher = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
            found = distill(student, teacher, torch.randint(7, target))
            (gradient,) = torch.autograd.grad(found, student)
            wanted = soft_cross_entropy(student, teacher)
            assert found.dtype == wanted.dtype
            assert torch.equal(found, wanted)
            assert torch.equal(gradient, *torch.autograd.grad(wanted, student))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (3, 4, 5), (2, 4, 3, 2)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("logs", [False, True])
def test_classes_are_where_the_loss_has_them(shape: tuple[int, ...], reduction: str, *, logs: bool) -> None:
    """A teacher that is sure teaches what labels teach, and its ignored positions teach nothing."""
    dim = 0 if len(shape) == 1 else 1
    loss = partial(F.nll_loss if logs else F.cross_entropy, ignore_index=2, reduction=reduction)
    distill, student = distillation_of(loss), torch.randn(shape, dtype=torch.float64)
    assert distill is not None
    student = student.log_softmax(dim) if logs else student
    positions = shape[:dim] + shape[dim + 1 :]
    target = torch.arange(torch.Size(positions).numel()).view(positions) % 4
    sure = 200.0 * F.one_hot(target, 4).movedim(-1, dim).double()
    teacher = sure.log_softmax(dim) if logs else sure
    if len(shape) == 1:
        target = torch.tensor(1)
        teacher = torch.tensor([-99.0, 99.0, -99.0, -99.0], dtype=torch.float64)
        teacher = teacher.log_softmax(0) if logs else teacher
    torch.testing.assert_close(distill(student, teacher, target), loss(student, target))


def test_padding_is_not_distilled() -> None:
    loss = nn.CrossEntropyLoss(ignore_index=-1)
    distill = distillation_of(loss)
    assert distill is not None
    student = torch.randn(2, 5, 3, requires_grad=True)
    distill(student, torch.randn(2, 5, 3), torch.tensor([[0, 1, -1], [2, -1, -1]])).backward()
    assert student.grad is not None
    assert (student.grad.abs().sum(1) > 0).tolist() == [[True, True, False], [True, False, False]]


class Renamed(nn.CrossEntropyLoss):
    """Computes what its base does."""


class Focal(nn.CrossEntropyLoss):
    """Computes something else."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return super().forward(output, target) ** 2


def hooked() -> nn.Module:
    loss = nn.MSELoss()
    loss.register_forward_hook(lambda module, inputs, output: -output)
    return loss


@pytest.mark.parametrize(
    "loss",
    [
        lambda output, target: F.cross_entropy(output, target),
        Focal(),
        hooked(),
        F.kl_div,
        nn.KLDivLoss(),
        nn.GaussianNLLLoss(),
        nn.PoissonNLLLoss(),
        nn.CosineEmbeddingLoss(),
        nn.TripletMarginLoss(),
        nn.MultiMarginLoss(),
        nn.HingeEmbeddingLoss(),
        nn.CTCLoss(),
        partial(F.mse_loss, torch.zeros(2)),
        partial(F.mse_loss, target=torch.zeros(2)),
        partial(nn.MSELoss(), target=torch.zeros(2)),
        max,
    ],
    ids=loss_name,
)
def test_of_others_nothing_follows(loss: Callable[..., Tensor]) -> None:
    assert distillation_of(loss) is None


def test_a_subclass_that_computes_the_same_is_known() -> None:
    distill = distillation_of(Renamed(reduction="sum"))
    assert distill is not None
    torch.testing.assert_close(distill(S, T), ROWS.sum())


@pytest.mark.parametrize("loss", [partial(F.mse_loss, reduction="none"), nn.CrossEntropyLoss(reduction="none")])
def test_a_loss_per_element_is_refused(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(LossError, match='use reduction="mean" or "sum"'):
        recognise(loss)


def test_losses_of_timm() -> None:
    cross_entropy = pytest.importorskip("timm.loss").cross_entropy
    wanted = soft_cross_entropy(S, T)
    for loss in (cross_entropy.LabelSmoothingCrossEntropy(0.2), cross_entropy.SoftTargetCrossEntropy()):
        distill = distillation_of(loss)
        assert distill is not None
        torch.testing.assert_close(distill(S, T), wanted)
        # Their classes are in the last dimension.
        three = torch.stack([S, S]), torch.stack([T, T])
        torch.testing.assert_close(distill(*three), wanted)
    assert distillation_of(pytest.importorskip("timm.loss").BinaryCrossEntropy()) is None


@pytest.mark.parametrize("loss", [F.cross_entropy, F.mse_loss, F.l1_loss, F.binary_cross_entropy_with_logits])
def test_a_teacher_of_another_shape_is_refused(loss: Callable[..., Tensor]) -> None:
    distill = distillation_of(loss)
    assert distill is not None
    with pytest.raises(LossError, match=r"\(1, 3\) and the student's \(2, 3\) differ in shape"):
        distill(S, T[:1])
