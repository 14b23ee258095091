"""The alpha-divergence of the experiment `beyond` is that of the formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anywidth.reproduce import load_experiment

cell: Any = load_experiment("beyond").cells["alpha-divergence"]
alpha_divergence = cell.keywords["distillation"]


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 1.0, 2.0])
def test_alpha_divergence_and_its_gradient_are_those_of_the_formula(alpha: float) -> None:
    """Without clipping; the gradient of the formula by autograd, through the ratio as well."""
    student = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(6, 5, dtype=torch.float64)
    q, p = student.softmax(1), teacher.softmax(1)
    ratio = p / q
    terms = ratio * ratio.log() if alpha == 1 else (ratio**alpha - 1) / (alpha * (alpha - 1))
    wanted = (q * terms).sum(1).mean()
    (gradient,) = torch.autograd.grad(wanted, student)
    found = alpha_divergence(student, teacher, alphas=(alpha,), clip=1e9)
    (found_gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found_gradient, gradient)


def test_every_sample_takes_the_larger_divergence() -> None:
    student, teacher = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 4, dtype=torch.float64)
    singles = [
        torch.stack(
            [alpha_divergence(s[None], t[None], alphas=(alpha,)) for s, t in zip(student, teacher, strict=True)]
        )
        for alpha in (-1.0, 1.0)
    ]
    assert (singles[0] > singles[1]).any()
    assert (singles[0] < singles[1]).any()
    torch.testing.assert_close(alpha_divergence(student, teacher), torch.maximum(*singles).mean())


def test_clipping_bounds_the_gradient_of_samples_far_off() -> None:
    student = torch.tensor([[30.0, -30.0]], requires_grad=True)
    loss = alpha_divergence(student, -student.detach())
    loss.backward()
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert student.grad.abs().max() <= 5
