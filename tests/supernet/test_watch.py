"""Optimizers that a gradient hook steps, in the middle of a training step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import TrainingError
from built_once import built_once


def in_backward(model: nn.Module, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> None:
    """Step an optimizer per parameter as soon as its gradient is there, and clear the gradient."""
    for parameter in model.parameters():
        optimizer = make([parameter])

        def step(parameter: Tensor, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        parameter.register_post_accumulate_grad_hook(step)


def by_hand(model: nn.Module) -> None:
    """The same without an optimizer of torch."""

    @torch.no_grad()
    def step(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.sub_(parameter.grad, alpha=0.1)
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(step)


@built_once
def small(**options: Any) -> aw.Supernet:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    return aw.Supernet(model, torch.randn(2, 4), **options)


BATCH = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3


@pytest.mark.parametrize("step", ["sandwich_step", "nested_step"])
def test_an_optimizer_that_steps_inside_a_step_of_several_widths_is_refused(step: str) -> None:
    net = small(**({"nested": (0.25, 1.0)} if step == "nested_step" else {}))
    in_backward(net.model, lambda parameters: torch.optim.SGD(parameters, 0.1))
    before = copy.deepcopy(net.model.state_dict())
    with pytest.raises(TrainingError, match=f"this SGD steps inside the backward pass of {step}, which sums"):
        getattr(aw, step)(net, *BATCH)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.model.state_dict().items())
    other = small()
    in_backward(other.model, lambda parameters: torch.optim.SGD(parameters, 0.1))
    other.model(BATCH[0]).sum().backward()  # of a network that is not in a step


@pytest.mark.parametrize("step", ["sandwich_step", "nested_step"])
def test_a_hook_that_clears_gradients_inside_a_step_of_several_widths_is_refused(step: str) -> None:
    net = small(**({"nested": (0.25, 1.0)} if step == "nested_step" else {}))
    by_hand(net.model)
    with pytest.raises(
        (TrainingError, RuntimeError), match="a gradient hook clears gradients inside|modified by an in"
    ):
        getattr(aw, step)(net, *BATCH)


@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("adam", [False, True])
def test_an_optimizer_may_step_in_the_backward_pass_of_one_width(width: float, adam: bool) -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, 0.01) if adam else torch.optim.SGD(parameters, 0.1, momentum=0.9)

    fused, usual = small(), small()
    in_backward(fused.model, make)
    optimizer = make(usual.model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        for net in (fused, usual):
            aw.sandwich_step(net, *BATCH, widths=[width])
        optimizer.step()
    for ours, theirs in zip(fused.model.parameters(), usual.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
        assert ours.grad is None
