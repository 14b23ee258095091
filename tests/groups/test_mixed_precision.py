"""Models in several floating-point types, with casts written out: elastic, and subnets keep the types."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from fast import fast_and_slow

Cast = Callable[["Mixed", Tensor], Tensor]
INPUTS, CHANNELS = 6, 32


class Mixed(nn.Module):
    """A layer in half the precision, a norm in single precision, and a layer in half the precision."""

    def __init__(self, middle: Cast, dtype: torch.dtype) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(INPUTS, CHANNELS).to(dtype), nn.Linear(CHANNELS, 4).to(dtype)
        self.n, self.middle, self.table = nn.LayerNorm(CHANNELS), middle, torch.ones(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.middle(self, self.a(x)))


def _own_norm(model: Mixed, h: Tensor) -> Tensor:
    wide = h.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return model.n.weight.to(h.dtype) * wide.to(h.dtype)


MIDDLES: dict[str, Cast] = {
    "float and to": lambda model, h: model.n(h.float()).to(model.o.weight.dtype),
    "type as": lambda model, h: model.n(h.float()).type_as(h),
    "to another": lambda model, h: model.n(h.to(model.n.weight)).to(h),
    "double": lambda model, h: (h.double() * 2).to(h.dtype),
    "own norm": _own_norm,
    "softmax in single precision": lambda model, h: h * F.softmax(h, dim=0, dtype=torch.float32).type_as(h),
    "sum in single precision": lambda model, h: h * h.sum(1, keepdim=True, dtype=torch.float32).to(h.dtype),
    "made in single precision": lambda model, h: (h + torch.zeros(h.shape, dtype=torch.float32)).to(h.dtype),
    "made in half": lambda model, h: h + h.new_ones(h.shape[1]) * torch.ones((), dtype=h.dtype),
    "plain constant": lambda model, h: (h * model.table).to(h.dtype),
    "limits of the type": lambda model, h: h.clamp(min=torch.finfo(h.dtype).min, max=torch.finfo(h.dtype).max),
    "integers between": lambda model, h: h * (h > 0).long().float().to(h.dtype),
}


TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
# One of each kind; another 16-bit type changes no rule.
FAST = {
    ("float and to", "float16"), ("to another", "bfloat16"), ("own norm", "bfloat16"),
    ("softmax in single precision", "float16"), ("made in single precision", "bfloat16"), ("plain constant", "float16"),
    ("limits of the type", "bfloat16"), ("integers between", "float16"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), fast_and_slow([(name, kind) for name in MIDDLES for kind in TYPES], FAST))
def test_casts_leave_everything_elastic(name: str, kind: str) -> None:
    dtype = TYPES[kind]
    x = torch.randn(5, INPUTS, dtype=dtype)
    net = aw.Supernet(Mixed(MIDDLES[name], dtype).eval(), x)
    assert {group.name: group.frozen for group in net.groups}["a"] is None, net.summary()
    narrow = net.subnet(0.5).eval()
    assert narrow.a.weight.shape == (CHANNELS // 2, INPUTS)
    assert narrow.a.weight.dtype == narrow(x).dtype == dtype
    sliced = Mixed(MIDDLES[name], dtype).eval()
    half = CHANNELS // 2
    with torch.no_grad():
        for layer, rows, columns in ((sliced.a, half, INPUTS), (sliced.o, 4, half)):
            full = net.model.a if layer is sliced.a else net.model.o
            layer.weight, layer.bias = (nn.Parameter(t) for t in (full.weight[:rows, :columns], full.bias[:rows]))
        sliced.n = nn.LayerNorm(half)
        assert torch.equal(narrow(x), sliced(x))


class WholeTypes(nn.Module):
    """Float16, bfloat16, single and double precision, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        types = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        self.layers = nn.ModuleList(nn.Linear(i, o).to(t) for (i, o), t in zip(
            [(6, 16), (16, 20), (20, 24), (24, 3)], types, strict=True))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x.to(layer.weight.dtype)).relu()
        return x


def test_four_types_in_one_model() -> None:
    net = aw.Supernet(WholeTypes().eval(), torch.randn(3, 6))
    assert [group.channels for group in net.analysis.elastic] == [16, 20, 24]
    assert net.subnet(0.5)(torch.randn(3, 6)).dtype == torch.float64


@pytest.mark.filterwarnings("ignore:only .* of the MACs:UserWarning")
def test_a_wrong_table_in_half_precision_is_found() -> None:
    def shifted(model: Mixed, h: Tensor) -> Tensor:
        return h * torch.linspace(0.5, 1.5, h.shape[1]).to(h.dtype)

    net = aw.Supernet(Mixed(shifted, torch.bfloat16).eval(), torch.randn(5, INPUTS, dtype=torch.bfloat16))
    frozen = {group.name: group.frozen for group in net.groups}["a"]
    assert frozen is not None
    assert "differs from the masked one" in frozen


class Complex(nn.Module):
    """A layer on complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(6, 16), nn.Linear(16, 12, dtype=torch.complex64), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.o(self.b(torch.complex(h, h.sin())).abs())


def test_complex_layers_are_elastic() -> None:
    net = aw.Supernet(Complex().eval(), torch.randn(3, 6))
    assert net.elastic_share == 1, net.summary()
