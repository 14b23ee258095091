"""Compiled widths train as the widths do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import TrainingError
from anywidth.training import Execution
from anywidth.training.compiled import CompiledSubnets
from built_once import built_once


@pytest.fixture
@built_once
def net() -> aw.Supernet:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 96, 3), nn.BatchNorm2d(96), nn.ReLU(), nn.Flatten(), nn.Linear(96 * 4, 5)]
    model = nn.Sequential(*body).double()
    net = aw.Supernet(model, torch.randn(2, 3, 4, 4, dtype=torch.float64))
    model.train()
    return net


def gradients(net: aw.Supernet, **options: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    net.model.zero_grad()
    aw.sandwich_step(net, x, torch.tensor([0, 1, 2, 3, 4, 0]), **options)
    return {name: p.grad.clone() for name, p in net.model.named_parameters() if p.grad is not None}


class Compiler:
    """Counts what it is asked to compile."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs += 1
        return graph.forward


def test_every_width_is_compiled_once_however_many_there_are(net: aw.Supernet) -> None:
    compiler = Compiler()
    compiled = CompiledSubnets(backend=compiler)
    widths = [1.0, *(0.25 + 0.75 * number / 11 for number in range(11))]
    wanted = gradients(net, widths=widths)
    for _ in range(2):
        found = gradients(net, widths=widths, execution=Execution(wrap=compiled))
        assert len(compiled) == compiler.graphs == len({net.config(width) for width in widths}) == 10
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)


def test_what_lightning_notes_of_compiling_changes_no_subnet(net: aw.Supernet) -> None:
    from lightning.fabric import wrappers  # replaces torch.compile by one that writes to the model

    half = net.subnet(0.5)
    compiled = torch.compile(net.model, backend="eager")
    assert "_compile_kwargs" in vars(net.model)
    assert compiled is not net.model
    assert net.subnet(0.5) is half
    assert wrappers


def test_the_one_used_longest_ago_goes_first(net: aw.Supernet) -> None:
    compiled = CompiledSubnets(limit=2, backend="eager")
    gradients(net, widths=[1.0, 0.25, 0.5], execution=Execution(wrap=compiled))
    assert len(compiled) == 2


def test_a_compiler_that_fails_is_told(net: aw.Supernet) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("no compiler here")

    with pytest.raises(TrainingError, match=r"torch.compile failed.*install a C\+\+ compiler"):
        gradients(net, widths=2, execution=Execution(wrap=CompiledSubnets(backend=fail)))


@pytest.mark.slow
def test_compiled_code_gives_the_same_gradients(net: aw.Supernet) -> None:
    wanted = gradients(net, widths=[1.0, 0.25])
    found = gradients(net, widths=[1.0, 0.25], execution=Execution(wrap=CompiledSubnets()))
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10)
