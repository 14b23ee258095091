"""Parts that are no leading blocks are copies, which have to follow the weights wherever these change."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.supernet.record import record_of
from anywidth.training import Execution
from anywidth.training.compiled import CompiledSubnets
from built_once import built_once
from fast import fast_and_slow
from zoo import Case, cases, find

COPIED = ("concat", "grouped conv", "shuffle units", "glu")


def squares(output: Any, _: Any = None) -> Tensor:
    tensors = [leaf for leaf in torch.utils._pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    return torch.stack([tensor.square().mean() for tensor in tensors]).sum()


@built_once
def supernet(case: Case) -> aw.Supernet:
    torch.manual_seed(0)
    net = aw.Supernet(case.model().double().train(), case.example(), divisor=1)
    for module in net.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net


def step(net: aw.Supernet, x: Any, **options: Any) -> dict[str, Tensor]:
    """The gradients of one step of two widths."""
    net.model.zero_grad()
    torch.manual_seed(0)  # of stochastic depth
    aw.sandwich_step(net, x, None, widths=[1.0, 0.5], loss=squares, distillation=None, **options)
    return {name: p.grad.clone() for name, p in net.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("case", cases(lambda case: case.elastic, few=True))
def test_every_pass_takes_the_weights_as_they_are(case: Case) -> None:
    net, x = supernet(case), case.example(1)
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.1)
    step(net, x)
    optimizer.step()
    batches = [step(net, x) for _ in range(2)]  # as those of an accumulated step
    fresh = aw.Supernet(copy.deepcopy(net.model), case.example(), divisor=1)
    wanted = step(fresh, x)
    for found in batches:
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-9, msg=name)


def test_copies_are_laid_out_as_the_weights_are() -> None:
    model = find("grouped conv").model().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    net = aw.Supernet(model, find("grouped conv").example(), divisor=1)
    subnet = net.subnet(0.5)
    copies = [copy.copy for copy in record_of(subnet).copies._copies if copy.copy.ndim == 4]
    assert any(not tensor.is_contiguous() for tensor in copies)
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in copies)


@pytest.mark.parametrize("name", fast_and_slow(COPIED, {"glu"}))
def test_training_goes_on_alike_when_it_is_compiled(name: str) -> None:
    losses = []
    for wrap in (None, CompiledSubnets(backend="eager")):
        net, x = supernet(find(name)), find(name).example(1)
        assert record_of(net.subnet(0.5)).copies is not None
        optimizer = torch.optim.SGD(net.model.parameters(), lr=0.1)
        seen = []
        for _ in range(4):
            step(net, x, execution=Execution(wrap=wrap))
            seen.append(float(squares(net.subnet(0.5)(x)).detach()))
            optimizer.step()
        losses.append(seen)
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    assert losses[0][0] != pytest.approx(losses[0][-1], rel=1e-3)


def test_a_subnet_that_was_compiled_follows_the_weights() -> None:
    net, x = supernet(find("concat")), find("concat").example(1)
    plain, seen = net.subnet(0.5), []
    compiled = torch.compile(plain, backend="eager")
    optimizer = torch.optim.SGD(net.model.parameters(), lr=0.1)
    for _ in range(3):
        seen.append(float(squares(compiled(x)).detach()))
        assert seen[-1] == pytest.approx(float(squares(plain(x)).detach()), rel=1e-9)
        step(net, x)
        optimizer.step()
    assert seen[0] != pytest.approx(seen[-1], rel=1e-3)


@pytest.mark.parametrize("name", ["concat", "grouped conv"])
def test_the_same_calibration_gives_the_same_statistics(name: str) -> None:
    net, x = supernet(find(name)), find(name).example(1)
    step(net, x)
    torch.optim.SGD(net.model.parameters(), lr=0.1).step()
    found = []
    for _ in range(2):
        aw.calibrate(net, [x], [0.5])
        found.append({key: value.clone() for key, value in net.statistics[net.config(0.5)].items()})
    dense = net.extract(0.5).eval()(x)
    torch.testing.assert_close(net.subnet(0.5).eval()(x), dense, rtol=1e-9, atol=1e-12)
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=0, atol=0)


def test_functional_calls_and_their_gradients_are_those_of_the_extracted_network() -> None:
    torch.manual_seed(0)
    net = aw.Supernet(Gathered(), torch.randn(4, 4))
    subnet, dense, x = net.subnet(0.5), net.extract(0.5), torch.randn(4, 4)
    values = {name: parameter.detach() * 2 for name, parameter in subnet.named_parameters()}

    def loss(network: nn.Module, values: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(network, values, (x,)).square().sum()

    torch.testing.assert_close(loss(subnet, values, x), loss(dense, values, x))
    for transform in (torch.func.grad(loss, argnums=1), torch.func.vmap(loss, in_dims=(None, None, 0))):
        torch.testing.assert_close(transform(subnet, values, x), transform(dense, values, x))
    assert net.subnet(0.5) is subnet
    torch.testing.assert_close(subnet(x), net.extract(0.5)(x))


class Gathered(nn.Module):
    """A layer that reads two branches, so that its part at a width is a dense copy."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.cat([self.a(x), self.b(x)], -1).relu())
