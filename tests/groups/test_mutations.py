"""A mutation test of the proof: operator rules are broken in turn, and no wrong subnet may pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.groups.flow import Flow
from anywidth.groups.labels import FIXED, Array, varying
from anywidth.groups.operators import OPERATORS, Call, Result, Rule
from anywidth.groups.value import Value
from fast import fast_and_slow
from proofs import masked
from zoo import Case

Mutation = Callable[[Flow, Array], "Array | None"]


def _last(label_array: Array) -> int:
    return max(varying(label_array), key=lambda dim: label_array.shape[dim])


def reversed_order(flow: Flow, label_array: Array) -> Array:
    """The labels in reverse."""
    return np.flip(label_array, _last(label_array))


def off_by_one(flow: Flow, label_array: Array) -> Array:
    """The labels moved by one position."""
    return np.roll(label_array, 1, _last(label_array))


def off_by_half(flow: Flow, label_array: Array) -> Array:
    """The labels moved by half of their number."""
    dim = _last(label_array)
    return np.roll(label_array, label_array.shape[dim] // 2, dim)


def dropped(flow: Flow, label_array: Array) -> None:
    """No labels at all."""


def first_for_all(flow: Flow, label_array: Array) -> Array:
    """The labels of a part of the positions, repeated."""
    dim = _last(label_array)
    size = label_array.shape[dim]
    return np.take(label_array, np.arange(size) % max(1, size // 2), dim)


MUTATIONS: dict[str, Mutation] = {
    "reversed": reversed_order,
    "off by one": off_by_one,
    "off by half": off_by_half,
    "dropped": dropped,
    "repeated": first_for_all,
}


def mutated(rule: Rule, mutation: Mutation) -> Rule:
    """A rule whose results have broken labels."""

    def broken(flow: Flow, call: Call) -> Result:
        result = rule(flow, call)
        for value in result if isinstance(result, list) else [result]:
            if isinstance(value, Value) and value.tensor is None:
                label_arrays = [
                    mutation(flow, f) if varying(f) and (f != FIXED).all() else f for f in value.label_arrays
                ]
                value.label_arrays = [label_array for label_array in label_arrays if label_array is not None]
        return result

    return broken


def transposed(rule: Rule) -> Rule:
    """A rule whose labels lie along another dimension of the same size or of size one."""

    def broken(flow: Flow, call: Call) -> Result:
        result = rule(flow, call)
        for value in result if isinstance(result, list) else [result]:
            if isinstance(value, Value) and value.tensor is None and len(value.shape) > 1:
                for number, label_array in enumerate(value.label_arrays):
                    dim = _last(label_array) if varying(label_array) else 0
                    for other in range(len(value.shape)):
                        if (
                            varying(label_array) == {dim}
                            and other != dim
                            and value.shape[other] == label_array.shape[dim]
                        ):
                            value.label_arrays[number] = np.swapaxes(label_array, dim, other)
                            break
        return result

    return broken


class Net(nn.Module):
    """A convolution, an operator, a convolution and a head; every operator of the table passes through it."""

    def __init__(self, operator: Callable[[Tensor], Tensor], channels: int = 12) -> None:
        super().__init__()
        self.operator = operator
        self.enter, self.other = nn.Conv1d(3, channels, 1), nn.Conv1d(3, channels, 1)
        self.norm = nn.BatchNorm1d(channels)
        self.slope = nn.PReLU(channels)
        self.mix = nn.Linear(channels, channels)
        self.table = nn.Embedding(5, channels)
        passed = self.changed(torch.zeros(2, 3, 12))
        self.leave = nn.Conv1d(passed.shape[1], 10, 1)
        self.head = nn.Linear(10, 4)

    def changed(self, x: Tensor) -> Tensor:
        return self.operator(self, x, self.enter(x).tanh())  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.leave(self.changed(x)).relu().mean(2))


NETS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "convolution": ("aten.conv1d", lambda net, x, h: h),
    "addition": ("aten.add", lambda net, x, h: h + net.other(x).sigmoid()),
    "linear": ("aten.linear", lambda net, x, h: net.mix(h.transpose(1, 2)).transpose(1, 2)),
    "matmul": ("aten.matmul", lambda net, x, h: net.mix.weight @ h),
    "einsum": ("aten.einsum", lambda net, x, h: torch.einsum("oc,bcn->bon", net.mix.weight, h)),
    "batch norm": ("aten.batch_norm", lambda net, x, h: net.norm(h)),
    "group norm": ("aten.group_norm", lambda net, x, h: F.group_norm(h, 3, net.norm.weight, net.norm.bias)),
    "prelu": ("aten.prelu", lambda net, x, h: net.slope(h)),
    "permute": ("aten.permute", lambda net, x, h: h.permute(0, 2, 1).cos().permute(0, 2, 1)),
    "transpose": ("aten.transpose", lambda net, x, h: h.transpose(1, 2).cos().transpose(1, 2)),
    "flatten": ("aten.flatten", lambda net, x, h: h.unflatten(1, (3, -1)).flatten(1, 2)),
    "view": ("aten.view", lambda net, x, h: h.view(len(h), -1, 3, 4).sin().view(len(h), h.shape[1], -1)),
    "expand": ("aten.expand", lambda net, x, h: h * net.norm.weight[None, :, None].expand(len(h), -1, h.shape[2])),
    "repeat": ("aten.repeat", lambda net, x, h: h.repeat(1, 2, 1)),
    "repeat_interleave": ("aten.repeat_interleave.self_int", lambda net, x, h: h.repeat_interleave(2, 1)),
    "flip": ("aten.flip", lambda net, x, h: h.flip(1)),
    "concatenation": ("aten.cat", lambda net, x, h: torch.cat([h, net.other(x)], 1)),
    "stack": ("aten.stack", lambda net, x, h: torch.stack([h, net.other(x)], 1).prod(1)),
    "chunk": ("aten.chunk", lambda net, x, h: torch.cat(h.chunk(2, 1)[::-1], 1)),
    "split": ("aten.split_with_sizes", lambda net, x, h: torch.cat([h.split([5, h.shape[1] - 5], 1)[0], h], 1)),
    "unbind": ("aten.unbind", lambda net, x, h: torch.stack(h.unflatten(1, (3, -1)).unbind(1)[::-1], 1).flatten(1, 2)),
    "select": ("aten.select", lambda net, x, h: h * h.select(2, 0)[..., None]),
    "slice": ("aten.slice", lambda net, x, h: torch.cat([h[:, 5:], h], 1)),
    "padding": ("aten.pad", lambda net, x, h: F.pad(h, (0, 0, 2, 1))),
    "sum": ("aten.sum", lambda net, x, h: h * h.sum(2, keepdim=True)),
    "mean": ("aten.mean", lambda net, x, h: h - h.mean(2, keepdim=True)),
    "softmax": ("aten.softmax", lambda net, x, h: h * h.softmax(2)),
    "pooling": ("aten.max_pool1d", lambda net, x, h: F.max_pool1d(h, 2)),
    "glu": ("aten.glu", lambda net, x, h: F.glu(torch.cat([h, net.other(x)], 1), 1)),
    "embedding": ("aten.embedding", lambda net, x, h: h + net.table(torch.tensor(2))[:, None]),
    "attention": (
        "aten.scaled_dot_product_attention",
        lambda net, x, h: F.scaled_dot_product_attention(
            *(t.unflatten(1, (3, -1)).mT for t in (h, net.other(x), h))
        ).mT.flatten(1, 2),
    ),
    "pixel shuffle": (
        "aten.pixel_shuffle",
        lambda net, x, h: F.pixel_shuffle(h.unflatten(2, (3, 4)), 2).flatten(2),
    ),
    "channel shuffle": (
        "aten.channel_shuffle",
        lambda net, x, h: F.channel_shuffle(h.unsqueeze(3), 3).squeeze(3),
    ),
    "rolled": ("aten.roll", lambda net, x, h: h.roll(2, 1)),
    "index": ("aten.index", lambda net, x, h: h[:, :, torch.arange(11, -1, -1)]),
    "cumulative": ("aten.cumsum", lambda net, x, h: h.cumsum(2)),
}


def wrong(net: aw.Supernet, x: Tensor) -> list[str]:
    """Configs whose subnet differs from the full network in which the weights that read dropped channels are zero."""
    found = []
    elastic = net.analysis.elastic
    generator = torch.Generator().manual_seed(1)
    configs = [{g.name: int(torch.randint(1, g.blocks + 1, (), generator=generator)) * g.block_size for g in elastic}]
    for group in elastic:
        whole = {g.name: g.channels for g in elastic}
        configs += [
            whole | {group.name: blocks * group.block_size} for blocks in {1, (group.blocks + 1) // 2, group.blocks - 1}
        ]
    case = Case(name="mutated", build=lambda: net.model, inputs=lambda: x)
    for channels in configs:
        config = aw.WidthConfig(channels)
        share_statistics(net, [config])
        with torch.no_grad():
            wanted = masked(net, config, case)(x)
            try:
                got = net.subnet(config)(x)
            except RuntimeError as error:
                found.append(f"{channels}: {error}")
                continue
        if got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=1e-3, atol=1e-4):
            found.append(f"{channels}: differs by {float((got - wanted).abs().max())}")
    return found


def supernet(name: str, x: Tensor) -> aw.Supernet:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return aw.Supernet(Net(NETS[name][1]).eval(), x, divisor=1, min_width=0.1)


def check(name: str, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 12)
    operator, calls = NETS[name][0], []
    record = OPERATORS.find(operator)
    rule = record.labels
    broken = transposed(rule) if mutation == "transposed" else mutated(rule, MUTATIONS[mutation])

    def counted(flow: Flow, call: Call) -> Result:
        calls.append(call)
        return broken(flow, call)

    monkeypatch.setitem(OPERATORS._records, operator, replace(record, labels=counted))
    try:
        net = supernet(name, x)
    except ValueError:  # labels that do not fit the shapes: as loud as can be
        assert calls
        return
    assert calls, f"{operator} is not called"
    assert wrong(net, x) == []


BROKEN = ("flip", "slice", "concatenation", "linear")


@pytest.mark.parametrize("name", fast_and_slow(NETS, {*BROKEN, "einsum", "attention", "view", "channel shuffle"}))
def test_right_rules_give_right_subnets(name: str) -> None:
    x = torch.randn(2, 3, 12)
    assert wrong(supernet(name, x), x) == []


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("mutation", ["off by one", "dropped"])
def test_no_broken_rule_gives_a_wrong_subnet(name: str, mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(name, mutation, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mutation"),
    [
        (name, mutation)
        for name in NETS
        for mutation in [*MUTATIONS, "transposed"]
        if name not in BROKEN or mutation not in ("off by one", "dropped")  # those run above
    ],
)
def test_no_rule_broken_in_any_way_gives_a_wrong_subnet(
    name: str, mutation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(name, mutation, monkeypatch)
