"""Networks whose operators are unusual: cells in loops, shared heads, experts, graphs, boxes, QAT; each elastic and right."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.ao.quantization as quantisation
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import anywidth as aw
from fast import fast_and_slow
from proofs import assert_like_slicing, configs
from zoo import Case

STEPS, INPUTS = 5, 6


class Loop(nn.Module):
    """A recurrent cell in a loop over steps, from zero states, whose states are written into a tensor."""

    def __init__(self, cell: type[nn.RNNCellBase], hidden: int = 24) -> None:
        super().__init__()
        self.hidden, self.inward = hidden, nn.Linear(INPUTS, 16)
        self.cell, self.o = cell(16, hidden), nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), self.hidden, dtype=x.dtype)
        memory, out = torch.zeros_like(state), x.new_zeros(*x.shape[:2], self.hidden)
        for step in range(x.shape[1]):
            inward = self.inward(x[:, step]).relu()
            if isinstance(self.cell, nn.LSTMCell):
                state, memory = self.cell(inward, (state, memory))
            else:
                state = self.cell(inward, state)
            out[:, step] = state
        return self.o(out)


class OwnGates(nn.Module):
    """A gated cell of linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.inward, self.again = 16, nn.Linear(INPUTS, 48), nn.Linear(16, 48)
        self.o = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), self.hidden, dtype=x.dtype)
        for step in x.unbind(1):
            new, gate, reset = (a + b for a, b in zip(
                self.inward(step).chunk(3, -1), self.again(state).chunk(3, -1), strict=True))  # fmt: skip
            state = torch.lerp(new.tanh() * reset.sigmoid(), state, gate.sigmoid())
        return self.o(state)


class ZeroStates(nn.Module):
    """A recurrent layer with states that the forward makes."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.layer, self.o = 16, nn.LSTM(INPUTS, 16, 2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        states = [torch.zeros(2, len(x), self.hidden, dtype=x.dtype) for _ in range(2)]
        return self.o(self.layer(x, tuple(states))[0])


class SharedKeys(nn.Module):
    """Attention with one head of keys and values for all queries, in several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.heads, self.size = how, 4, 6
        self.inward, self.q, self.kv = nn.Linear(INPUTS, 16), nn.Linear(16, 24), nn.Linear(16, 12)
        self.o, self.head = nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inward(x)
        batch, steps, _ = h.shape
        q = self.q(h).view(batch, steps, self.heads, self.size).transpose(1, 2)
        k, v = (part[:, None] for part in self.kv(h).split(self.size, -1))
        if self.how == "expanded":
            k, v = (part.expand(batch, self.heads, steps, self.size) for part in (k, v))
        if self.how == "written out":
            out = (q @ k.transpose(-1, -2) / self.size**0.5).softmax(-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return self.head(h + self.o(out.transpose(1, 2).reshape(batch, steps, -1)))


class GroupedHeads(nn.Module):
    """Attention with fewer heads of keys and values than of queries, in several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.times, self.size = how, 2, 4
        self.inward, self.q = nn.Linear(INPUTS, 16), nn.Linear(16, 32)
        self.k, self.v, self.o, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inward(x)
        q, k, v = (layer(h).unflatten(-1, (-1, self.size)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.how == "repeated":
            k, v = (part.repeat_interleave(self.times, 1) for part in (k, v))
        elif self.how == "expanded":
            k, v = (part[:, :, None].expand(-1, -1, self.times, -1, -1).flatten(1, 2) for part in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.how == "option")
        return self.head(h + self.o(out.transpose(1, 2).flatten(2)))


class Rotary(nn.Module):
    """Attention with positions as rotations of complex numbers: only whole heads can go."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.inward, self.qkv = 4, nn.Linear(INPUTS, 16), nn.Linear(16, 96)
        self.o, self.head = nn.Linear(32, 16), nn.Linear(16, 3)
        self.register_buffer("turns", torch.rand(STEPS, 4))

    def _turned(self, x: Tensor) -> Tensor:
        turns = torch.polar(torch.ones_like(self.turns), self.turns)[:, None]
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inward(x)
        q, k, v = self.qkv(h).view(*h.shape[:2], 3, self.heads, -1).unbind(2)
        parts = [part.transpose(1, 2) for part in (self._turned(q), self._turned(k), v)]
        return self.head(h + self.o(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)))


class Experts(nn.Module):
    """The two best of four experts per token, dispatched in several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.experts = how, 4
        self.inward, self.gate, self.o = nn.Linear(INPUTS, 16), nn.Linear(16, 4), nn.Linear(16, 3)
        self.w1, self.w2 = nn.Parameter(torch.randn(4, 16, 24) / 4), nn.Parameter(torch.randn(4, 24, 16) / 5)
        self.bias = nn.Parameter(torch.randn(4, 1, 24))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inward(x).flatten(0, 1)
        shares, chosen = self.gate(h).softmax(-1).topk(2, -1)
        mix = torch.zeros(len(h), self.experts, dtype=h.dtype).scatter(1, chosen, shares)
        if self.how == "einsum":
            inner = F.gelu(torch.einsum("td,edf->tef", h, self.w1))
            out = torch.einsum("te,tef,efd->td", mix, inner, self.w2)
        elif self.how == "batched products":
            inner = F.gelu(torch.baddbmm(self.bias, h.expand(self.experts, -1, -1), self.w1))
            out = (torch.bmm(inner, self.w2) * mix.T[..., None]).sum(0)
        elif self.how == "one hot":
            sent = F.one_hot(chosen, self.experts).to(h.dtype)
            inner = torch.einsum("tke,td,edf->tkf", sent, h, self.w1).relu()
            out = torch.einsum("tkf,tke,efd,tk->td", inner, sent, self.w2, shares)
        elif self.how == "looked up":
            inner = F.silu(torch.einsum("td,tkdf->tkf", h, self.w1[chosen]))
            out = torch.einsum("tkf,tkfd,tk->td", inner, self.w2[chosen], shares)
        elif self.how == "sorted":
            order = chosen.flatten().argsort()
            stops = F.one_hot(chosen.flatten(), self.experts).sum(0).cumsum(0).to(torch.int32)
            rows = F.grouped_mm(F.grouped_mm(h[order // 2].float(), self.w1.float(), offs=stops).relu(),
                                self.w2.float(), offs=stops).to(h.dtype)  # fmt: skip
            out = torch.zeros_like(h).index_add(0, order // 2, rows * shares.flatten()[order][:, None])
        else:
            parts = [(h @ self.w1[e]).relu() @ self.w2[e] for e in range(self.experts)]
            out = sum(mix[:, e, None] * part for e, part in enumerate(parts))
        return self.o(h + out)


class Graph(nn.Module):
    """Messages along the edges of a graph: sums, means, maxima, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.inward, self.message = 4, nn.Linear(INPUTS, 16), nn.Linear(16, 24)
        self.weight, self.o = nn.Parameter(torch.randn(1, 4, 6)), nn.Linear(24, 3)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 4, 0, 2], [1, 2, 3, 4, 0, 2, 2]]))

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.edges[0], self.edges[1]
        h = self.message(self.inward(x[0]).relu())
        total = h.new_zeros(h.shape).index_add_(0, target, h[source])
        degrees = torch.zeros(len(h), dtype=h.dtype).index_add_(0, target, torch.ones(len(target), dtype=h.dtype))
        best = torch.zeros_like(h).scatter_reduce_(
            0, target[:, None].expand(-1, h.shape[1]), h[source], "amax", include_self=False
        )
        heads = h.view(len(h), self.heads, -1)
        scores = (heads * self.weight).sum(-1)
        scores = F.leaky_relu(scores[source] + scores[target]).exp()
        weights = scores / (torch.zeros(len(h), self.heads, dtype=h.dtype).index_add(0, target, scores) + 1)[target]
        seen = torch.zeros_like(heads).index_add(0, target, weights[..., None] * heads[source])
        return self.o(total / degrees.clamp(min=1)[:, None] + best + seen.flatten(1))


class Boxes(nn.Module):
    """Deformable convolution, and regions of images cut out by boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.offsets, self.mask = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 36, 3, padding=1), nn.Conv2d(16, 18, 1)
        self.b, self.places = torchvision.ops.DeformConv2d(16, 20, 3, padding=1), nn.Conv2d(20, 32, 1)
        self.o, self.p = nn.Linear(20, 3), nn.Linear(8, 3)
        self.register_buffer("boxes", torch.tensor([[0.0, 0, 0, 3, 3], [1.0, 1, 0, 3, 3]]))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        h = self.b(h, self.offsets(h), self.mask(h).sigmoid()).relu()
        boxes = self.boxes.to(x.dtype)
        align = torchvision.ops.roi_align(h, boxes, (2, 2)).mean((2, 3))
        pool = torchvision.ops.roi_pool(h, boxes, (2, 2)).amax((2, 3))
        return self.o(align + pool) + self.p(torchvision.ops.ps_roi_align(self.places(h), boxes, (2, 2)).mean((2, 3)))


class Positions(nn.Module):
    """Unpooling to remembered positions, and sampling along a grid that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 20, 1)
        self.flow, self.o = nn.Conv2d(20, 2, 1), nn.Conv2d(20, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.max_unpool2d(*F.max_pool2d(self.a(x), 2, return_indices=True), 2)
        h = self.b(h).relu()
        h = F.grid_sample(h, self.flow(h).permute(0, 2, 3, 1).tanh(), align_corners=False)
        return self.o(F.lp_pool2d(h, 2, 2))


class Quantised(nn.Module):
    """Training with the rounding of int8: weights per channel, activations per tensor, ranges that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(INPUTS, 16), nn.Linear(16, 24), nn.Linear(24, 3)
        self.weight = quantisation.default_fused_per_channel_wt_fake_quant()
        self.values = quantisation.default_fused_act_fake_quant()
        self(torch.randn(2, STEPS, INPUTS))  # the first call makes the buffers

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.linear(self.values(self.a(x).relu()), self.weight(self.b.weight), self.b.bias).relu())


class Spectral(nn.Module):
    """A filter over tokens in the frequency domain."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(INPUTS, 16), nn.Linear(16, 24), nn.Linear(24, 3)
        self.filter = nn.Parameter(torch.randn(STEPS // 2 + 1, 16, 2))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.fft.rfft(self.a(x), dim=1, norm="ortho") * torch.view_as_complex(self.filter)
        return self.o(self.b(torch.fft.irfft(h, n=x.shape[1], dim=1, norm="ortho")).relu())


class Codebook(nn.Module):
    """The nearest entry of a table in place of every vector."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.table = nn.Linear(INPUTS, 16), nn.Embedding(20, 16)
        self.b, self.o = nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).flatten(0, 1)
        nearest = self.table(torch.cdist(h, self.table.weight).argmin(1))
        return self.o(self.b(h + (nearest - h).detach()).relu())


class Scan(nn.Module):
    """A state space model that is unrolled: inputs, states and gates of one number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.states = 16, 4
        self.inward, self.step, self.maps = nn.Linear(INPUTS, 32), nn.Linear(16, 16), nn.Linear(16, 8)
        self.decay, self.skip, self.o = nn.Parameter(torch.rand(16, 4)), nn.Parameter(torch.rand(16)), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.inward(x).chunk(2, -1)
        step = F.softplus(self.step(u))
        b, c = self.maps(u).split(self.states, -1)
        kept = torch.exp(-torch.einsum("bld,dn->bldn", step, self.decay))
        new = torch.einsum("bld,bln,bld->bldn", step, b, u)
        state, out = torch.zeros(len(x), self.channels, self.states, dtype=x.dtype), []
        for t in range(x.shape[1]):
            state = kept[:, t] * state + new[:, t]
            out.append(torch.einsum("bdn,bn->bd", state, c[:, t]))
        return self.o((torch.stack(out, 1) + u * self.skip) * F.silu(gate))


class Pooled(nn.Module):
    """Products of all pairs of channels, flattened: one side of the pairs stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.o = nn.Linear(INPUTS, 16), nn.Linear(INPUTS, 12), nn.Linear(16 * 12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.normalize(torch.einsum("bti,btj->btij", self.a(x), self.b(x).relu()).flatten(2), dim=-1))


# Which groups are elastic (channels at full width), by the layer that makes them.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "LSTM cell": (lambda: Loop(nn.LSTMCell), {"inward": 16, "cell": 96}),
    "GRU cell": (lambda: Loop(nn.GRUCell), {"inward": 16, "cell": 72}),
    "RNN cell": (lambda: Loop(nn.RNNCell), {"inward": 16, "cell": 24}),
    "own gates": (OwnGates, {"inward": 48}),
    "zero states": (ZeroStates, {"layer": 64}),
    "shared keys": (lambda: SharedKeys("broadcast"), {"q": 24, "": 16}),
    "shared keys, expanded": (lambda: SharedKeys("expanded"), {"q": 24, "": 16}),
    "shared keys, written out": (lambda: SharedKeys("written out"), {"q": 24, "": 16}),
    "grouped heads": (lambda: GroupedHeads("option"), {"q": 32, "": 16}),
    "grouped heads, repeated": (lambda: GroupedHeads("repeated"), {"q": 32, "": 16}),
    "grouped heads, expanded": (lambda: GroupedHeads("expanded"), {"q": 32, "": 16}),
    "rotary": (Rotary, {"qkv": 96, "": 16}),
    "experts by einsum": (lambda: Experts("einsum"), {"inward": 16, "w1": 24}),
    "experts by batched products": (lambda: Experts("batched products"), {"inward": 16, "w1": 24}),
    "experts by one hot": (lambda: Experts("one hot"), {"inward": 16, "w1": 24}),
    "experts looked up": (lambda: Experts("looked up"), {"inward": 16, "w1": 24}),
    "experts sorted": (lambda: Experts("sorted"), {"inward": 16, "w1": 24}),
    "experts one by one": (lambda: Experts("one by one"), {"inward": 16, "w1": 24}),
    "graph": (Graph, {"inward": 16, "message": 24}),
    "boxes": (Boxes, {"a": 16, "b": 20, "places": 32}),
    "positions": (Positions, {"a": 16, "b": 20}),
    "quantised": (Quantised, {"a": 16, "b": 24}),
    "spectral": (Spectral, {"a": 16, "b": 24}),
    "codebook": (Codebook, {"a": 16, "b": 24}),
    "scan": (Scan, {"inward": 32, "maps": 8}),
    "pooled pairs": (Pooled, {"a": 16}),
}  # fmt: skip


# One of each kind.
FAST = {
    "LSTM cell", "own gates", "shared keys", "grouped heads, expanded", "rotary", "experts by einsum",
    "experts sorted", "graph", "boxes", "positions", "quantised", "spectral", "scan",
}  # fmt: skip


@pytest.mark.parametrize("name", fast_and_slow(NETWORKS, FAST))
def test_unusual_networks_are_elastic_and_their_subnets_are_slices(name: str) -> None:
    build, groups = NETWORKS[name]
    images = name in ("boxes", "positions")
    single = name == "quantised"  # its operators have no kernel in double precision
    dtype = torch.float32 if single else torch.float64
    shape = (2, 3, 4, 4) if images else (2, STEPS, INPUTS)
    case = Case(name=name, build=build, inputs=lambda: torch.randn(shape, dtype=dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        net = aw.Supernet(
            case.model().to(dtype), case.example(), divisor=4 if name == "experts sorted" else 1, min_width=0.1
        )
    x = case.example(1).to(dtype)
    elastic = {group.name: group.channels for group in net.analysis.elastic}
    assert sorted(elastic.values()) == sorted(groups.values()), net.summary()
    assert {name for name in groups if name} <= {found.partition("[")[0] for found in elastic}
    if single or name == "experts sorted":  # grouped products need channels in multiples of four
        narrow, dense = net.subnet(0.5).eval(), net.extract(0.5).eval()
        assert torch.equal(narrow(x), dense(x))
        return
    for config in configs(net, random=2):
        assert_like_slicing(net, config, x, training=False)
