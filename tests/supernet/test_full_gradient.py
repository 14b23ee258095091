"""Sparse gradients, and hooks of the user on parameters."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw

ROWS = torch.tensor([[0, 3, 3], [7, 0, 1]])


class Rows(nn.Module):
    """Embeddings, one or two of them side by side."""

    def __init__(self, *, sparse: bool, split: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e = nn.Embedding(10, 16, sparse=sparse)
        self.f = nn.Embedding(10, 16, sparse=sparse) if split else None
        self.o = nn.Linear(32 if split else 16, 3)

    def forward(self, i: Tensor) -> Tensor:
        h = self.e(i) if self.f is None else torch.cat([self.e(i), self.f(i)], -1)
        return self.o(h.mean(1))


def gradients(*, sparse: bool, split: bool, widths: list[float]) -> dict[str, Tensor]:
    net = aw.Supernet(Rows(sparse=sparse, split=split), ROWS)
    for _ in range(2):  # added up, as for gradient accumulation
        aw.sandwich_step(net, ROWS, torch.tensor([0, 2]), widths=widths)
    found = {name: p.grad for name, p in net.model.named_parameters() if p.grad is not None}
    assert found["e.weight"].is_sparse == sparse
    return {name: gradient.to_dense() for name, gradient in found.items()}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("widths", [[1.0, 0.5, 0.25], [0.5, 0.25]])
def test_sparse_gradients_are_the_dense_ones(split, widths) -> None:
    sparse = gradients(sparse=True, split=split, widths=widths)
    dense = gradients(sparse=False, split=split, widths=widths)
    assert sparse.keys() == dense.keys()
    for name, gradient in dense.items():
        torch.testing.assert_close(sparse[name], gradient)
    assert dense["e.weight"][7].abs().sum() > 0
    assert dense["e.weight"][2].abs().sum() == 0


def test_a_sparse_gradient_is_added_to_a_dense_one() -> None:
    net = aw.Supernet(Rows(sparse=True, split=False), ROWS)
    weight = net.model.e.weight
    net.subnet(0.5)(ROWS).sum().backward()
    alone = weight.grad.to_dense()  # type: ignore[operator,union-attr]
    weight.grad = torch.ones(10, 16)
    net.subnet(0.5)(ROWS).sum().backward()
    torch.testing.assert_close(weight.grad, alone + 1)


def test_sparse_adam_moves_the_rows_that_were_seen() -> None:
    net = aw.Supernet(Rows(sparse=True, split=False), ROWS)
    weight = net.model.e.weight
    before = weight.detach().clone()  # type: ignore[operator]
    aw.sandwich_step(net, ROWS, torch.tensor([0, 2]), widths=[0.5, 0.25])
    torch.optim.SparseAdam([weight], lr=0.1).step()  # type: ignore[list-item]
    moved = (weight != before).any(1).nonzero().flatten().tolist()  # type: ignore[union-attr]
    assert moved == [0, 1, 3, 7]


X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))


def test_hooks_of_a_parameter_see_the_full_gradient_and_may_replace_it() -> None:
    model = network()
    plain = network()
    seen: list[Tensor] = []
    mask = (torch.arange(32) % 2).float()[:, None]

    def hook(gradient: Tensor) -> Tensor:
        seen.append(gradient.clone())
        return gradient * mask

    model[0].weight.register_hook(hook)  # type: ignore[operator,union-attr]
    for each in (model, plain):
        aw.Supernet(each, X).subnet(0.5)(X).square().sum().backward()
    expected = plain[0].weight.grad
    torch.testing.assert_close(seen, [expected])
    assert expected[16:].abs().sum() == 0  # type: ignore[index]
    torch.testing.assert_close(model[0].weight.grad, expected * mask)  # type: ignore[operator]
    torch.testing.assert_close(model[2].weight.grad, plain[2].weight.grad)


def test_hooks_after_accumulation_run_once_per_width() -> None:
    model = network()
    sums: list[float] = []

    def hook(parameter: Tensor) -> None:
        assert parameter is model[2].weight
        sums.append(float(parameter.grad.abs().sum()))  # type: ignore[union-attr]

    net = aw.Supernet(model, X)
    net.subnet(0.5)
    handle = model[2].weight.register_post_accumulate_grad_hook(hook)  # type: ignore[operator,union-attr]
    aw.sandwich_step(net, X, torch.arange(8) % 4, widths=[1.0, 0.5, 0.25])
    assert len(sums) == 3
    assert sums[-1] == float(model[2].weight.grad.abs().sum())  # type: ignore[operator,union-attr]
    handle.remove()
    aw.sandwich_step(net, X, torch.arange(8) % 4, widths=[1.0, 0.5, 0.25])
    assert len(sums) == 3


def test_hooks_see_copied_parts_at_their_places() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.o = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(torch.cat([self.a(x), self.b(x)], 1).relu())

    model = Two()
    seen: list[Tensor] = []
    model.o.weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    net = aw.Supernet(model, X)
    net.subnet(0.5)(X).sum().backward()
    narrow = net.config(0.5)
    assert dict(narrow) == {"a": 8, "b": 8}
    h = torch.cat([model.a(X)[:, :8], model.b(X)[:, :8]], 1).relu().sum(0)
    expected = torch.zeros(4, 32)
    expected[:, [*range(8), *range(16, 24)]] = h
    torch.testing.assert_close(seen, [expected])
    torch.testing.assert_close(model.o.weight.grad, expected)


def test_graphs_that_are_kept_and_second_derivatives_still_work() -> None:
    model = network()
    subnet = aw.Supernet(model, X).subnet(0.5)
    loss = F.softplus(subnet(X)).sum()
    loss.backward(retain_graph=True)
    once = model[2].weight.grad.clone()  # type: ignore[operator,union-attr]
    loss.backward()
    torch.testing.assert_close(model[2].weight.grad, 2 * once)
    inputs = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.softplus(subnet(inputs)).sum(), inputs, create_graph=True)
    model.zero_grad()
    slope.square().sum().backward()
    assert model[0].weight.grad[:16].abs().sum() > 0  # type: ignore[index,union-attr]
    assert model[0].weight.grad[16:].abs().sum() == 0  # type: ignore[index,union-attr]
