"""MACs of sums of products in every notation against torch's FLOP counter, at full width and at half of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import anywidth as aw

SAMPLES, EXPERTS = 4, 3
Product = Callable[["Model", Tensor], Tensor]


class Model(nn.Module):
    """A linear layer, a product of what it makes with itself or with weights, and a linear layer."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product
        self.a, self.o = nn.Linear(6, 16), nn.Linear(16, 3)
        self.w1 = nn.Parameter(torch.randn(EXPERTS, 16, 20))
        self.w2 = nn.Parameter(torch.randn(EXPERTS, 20, 16))
        self.bias = nn.Parameter(torch.randn(EXPERTS, 1, 20))
        self.flat = nn.Parameter(torch.randn(16, 16))
        self.cell, self.gates, self.plain = nn.LSTMCell(16, 16), nn.GRUCell(16, 16), nn.RNNCell(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.product(self, self.a(x)))


def _grouped(model: Model, h: Tensor) -> Tensor:
    stops = torch.tensor([1, 1, SAMPLES], dtype=torch.int32)
    return F.grouped_mm(F.grouped_mm(h, model.w1, offs=stops).relu(), model.w2, offs=stops)


PRODUCTS: dict[str, Product] = {
    "einsum": lambda model, h: torch.einsum("bi,ij->bj", h, model.flat),
    "einsum of samples": lambda model, h: torch.einsum("bi,ci->bc", h, h) @ h,
    "einsum with dots": lambda model, h: torch.einsum("...i,ij->...j", h, model.flat),
    "einsum without arrow": lambda model, h: torch.einsum("bi,ij", h, model.flat),
    "einsum of three": lambda model, h: torch.einsum("bi,ci,ij->cj", h, h, model.flat),
    "einsum of five": lambda model, h: torch.einsum("bi,ci,ij,jk,kl->cl", h, h, model.flat, model.flat, model.flat),
    "einsum of outer products": lambda model, h: torch.einsum("bi,bj->bij", h, h).sum(1),
    "einsum that sums before": lambda model, h: torch.einsum("bi,kj,cj->bj", h, model.flat, h),
    "einsum that permutes": lambda model, h: torch.einsum("bi->ib", h).T,
    "inner": lambda model, h: torch.inner(h, model.flat),
    "tensordot": lambda model, h: torch.tensordot(h, model.flat, ([1], [0])),
    "chain": lambda model, h: torch.linalg.multi_dot([h, h.T, h]),
    "addmm": lambda model, h: torch.addmm(h, h, model.flat),
    "addbmm": lambda model, h: torch.addbmm(h, h[None], model.flat[None]),
    "addmv": lambda model, h: h + torch.addmv(h[0], model.flat, h[1]),
    "experts by bmm": lambda model, h: torch.bmm(
        torch.baddbmm(model.bias, h.expand(EXPERTS, -1, -1), model.w1).relu(), model.w2
    ).sum(0),
    "experts by einsum": lambda model, h: torch.einsum(
        "tef,efd->td", torch.einsum("td,edf->tef", h, model.w1).relu(), model.w2
    ),
    "experts of rows": lambda model, h: torch.einsum(
        "tf,tfd->td", torch.einsum("td,tdf->tf", h, model.w1[torch.tensor([0, 2, 1, 0])]).relu(),
        model.w2[torch.tensor([0, 2, 1, 0])],
    ),
    "chosen experts": lambda model, h: sum((h @ model.w1[e]).relu() @ model.w2[e] for e in range(EXPERTS)),
    "grouped experts": _grouped,
    "LSTM cell": lambda model, h: model.cell(h)[0],
    "GRU cell": lambda model, h: model.gates(h),
    "RNN cell": lambda model, h: model.plain(h),
    "shared keys": lambda model, h: F.scaled_dot_product_attention(
        h.view(1, SAMPLES, -1, 4).transpose(1, 2), model.flat[None, None, :5, :4], model.flat[None, None, :5, 4:8]
    ).transpose(1, 2).flatten(2)[0],
}  # fmt: skip


def counted(model: nn.Module, *inputs: Tensor) -> float:
    """MACs by the FLOP counter of torch, which counts two FLOPs each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_counted_as_by_torch(name: str) -> None:
    model, x = Model(PRODUCTS[name]).eval(), torch.randn(SAMPLES, 6)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        net = aw.Supernet(model, x, samples=SAMPLES)  # some of the products mix samples, which would count as one
    for width in (1.0, 0.5):
        narrow = net.subnet(width).eval()
        channels, hidden = narrow.a.out_features, narrow.w1.shape[2]
        missing = {  # operators that the counter does not know
            "addbmm": SAMPLES * channels**2,
            "addmv": channels**2,
            "grouped experts": SAMPLES * 2 * channels * hidden,
        }
        assert aw.macs(net, width) == (counted(narrow, x) + missing.get(name, 0)) // SAMPLES
    assert aw.macs(net, 0.5) < aw.macs(net)


def test_a_given_order_of_products_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the package opt_einsum, PyTorch multiplies the two cheapest first; two weights count once."""
    monkeypatch.setattr(torch.backends.opt_einsum, "enabled", True)
    monkeypatch.setattr(torch.backends.opt_einsum, "is_available", lambda: True)
    optimal = SimpleNamespace(contract_path=lambda *_, **__: ([(1, 2), (0, 1)], None))
    monkeypatch.setattr(torch.backends.opt_einsum, "get_opt_einsum", lambda: optimal)
    model = Model(lambda model, h: torch.einsum("bi,ij,jk->bk", h, model.flat, model.flat)).eval()
    net = aw.Supernet(model, torch.randn(SAMPLES, 6))
    assert aw.macs(net) == 6 * 16 + 16**3 + 16**2 + 16 * 3


def test_recurrent_layers_with_projections_are_counted_though_frozen() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Linear(6, 16), nn.Linear(16, 3)
            self.layer = nn.LSTM(16, 12, 2, proj_size=8, batch_first=True, bidirectional=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.layer(self.a(x))[0])

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        net = aw.Supernet(Projected(), torch.randn(2, 7, 6))
    weights = [p.numel() for name, p in net.model.named_parameters() if name.rpartition(".")[2].startswith("weight")]
    assert aw.macs(net) == 7 * sum(weights)
    assert "projected states at aten.lstm.input in layer" in net.summary()


def test_summaries_name_what_adds_up_and_is_not_counted() -> None:
    class Inverted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.o = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.norm(self.a(x)).relu()
            return torch.linalg.inv(torch.eye(3) + self.o(h) @ self.o(h).transpose(1, 2)) @ self.o(h)

    last = aw.Supernet(Inverted(), torch.randn(2, 3, 6)).summary().splitlines()[-1]
    assert last == "not counted in the MACs, like element-wise operators: aten.layer_norm (1), aten.linalg_inv (1)"


class Deformed(nn.Module):
    """A deformable convolution with offsets that a layer computes."""

    def __init__(self, groups: int, blocks: int) -> None:
        super().__init__()
        self.a, self.offsets = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 18 * blocks, 3, padding=1)
        self.b = torchvision.ops.DeformConv2d(16, 24, 3, padding=1, groups=groups)
        self.o = nn.Conv2d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        return self.o(self.b(h, self.offsets(h)).relu())


@pytest.mark.parametrize(("groups", "blocks"), [(1, 1), (1, 2), (16, 1)])
def test_deformable_convolutions_count_as_plain_ones(groups: int, blocks: int) -> None:
    model, x = Deformed(groups, blocks).eval() if groups == 1 else _depthwise(), torch.randn(1, 3, 5, 5)
    net = aw.Supernet(model, x)
    for width in (1.0, 0.5):
        narrow = net.subnet(width).eval()
        plain = sum(25 * layer.weight.numel() for layer in narrow.modules() if hasattr(layer, "kernel_size"))
        assert aw.macs(net, width) == plain
        assert torch.equal(narrow(x), net.extract(width).eval()(x))


def _depthwise() -> nn.Module:
    model = Deformed(1, 1)
    model.b, model.o = torchvision.ops.DeformConv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 2, 1)
    return model.eval()


class StepsFirst(nn.Module):
    """A convolution of (steps, batch, channels)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(6, 16), nn.Linear(24, 3)
        self.weight, self.bias = nn.Parameter(torch.randn(3, 16, 24)), nn.Parameter(torch.randn(24))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.conv_tbc(self.a(x), self.weight, self.bias, 1).relu())


def test_convolutions_with_steps_first_are_elastic_in_both_directions() -> None:
    net = aw.Supernet(StepsFirst(), torch.randn(7, 2, 6), divisor=1)
    assert [group.channels for group in net.analysis.elastic] == [16, 24]
    narrow = net.subnet(0.5)
    assert narrow.weight.shape == (3, 8, 12)
    products = [operator for operator in net.analysis.operators if operator.kind == "conv"]
    assert [o.macs * net.samples for o in products] == [7 * 2 * 3 * 16 * 24]
