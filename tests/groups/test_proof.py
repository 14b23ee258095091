"""Unknown operators freeze, wrong rules are caught, attributes follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import AnalysisError
from anywidth.groups import Analysis, ChannelGroup
from anywidth.groups.flow import Flow
from anywidth.groups.observed import Reads
from anywidth.groups.operators import OPERATORS, Call, Result
from anywidth.groups.prover import Failure, Prover
from anywidth.groups.value import Value


@torch.library.custom_op("anywidth_tests::reverse_channels", mutates_args=())
def reverse_channels(x: Tensor) -> Tensor:
    """An operator that no rule knows."""
    return x.flip(1).clone()


@reverse_channels.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Net(nn.Module):
    """Two convolutions with something in between."""

    def __init__(self, custom: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(1, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 2, 1)
        self.custom = custom

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = reverse_channels(x) if self.custom else x.flip(1)
        return self.third(torch.relu(self.second(x)))


def test_an_unknown_operator_freezes_what_it_touches_and_is_named() -> None:
    net = aw.Supernet(Net(custom=True), torch.randn(1, 1, 4, 4))
    reasons = {group.name: group.frozen for group in net.groups}
    assert "anywidth_tests.reverse_channels" in (reasons["first"] or "")
    assert reasons["second"] is None
    assert "reverse_channels" in net.summary()
    assert net.subnet(0.5)(torch.randn(3, 1, 4, 4)).shape == (3, 2, 4, 4)


def unmoved(flow: Flow, call: Call) -> Result:
    """A rule that is wrong for every operator that moves anything."""
    return Value(call.shape, flow.label_arrays(call.args[0]))


def test_a_wrong_rule_is_caught_by_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS._records, "aten.flip", replace(OPERATORS.find("aten.flip"), labels=unmoved))
    net = aw.Supernet(Net(), torch.randn(1, 1, 4, 4))
    reasons = {group.name: group.frozen for group in net.groups}
    assert "differs from the masked one" in (reasons["first"] or "")
    assert reasons["second"] is None


def test_a_right_rule_passes_it() -> None:
    net = aw.Supernet(Net(), torch.randn(1, 1, 4, 4))
    assert [group.name for group in net.analysis.elastic] == ["first", "second"]


class Attention(nn.Module):
    """Self-attention whose reshapes are given by integer attributes."""

    def __init__(self, dim: int = 24, num_heads: int = 3) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, self.num_heads * self.head_dim))


def test_attention_is_narrowed_by_whole_heads() -> None:
    model = nn.Sequential(nn.Linear(5, 24), Attention(), nn.Linear(24, 2))
    net = aw.Supernet(model, torch.randn(2, 7, 5), divisor=1)
    heads = next(group for group in net.groups if group.name == "1.qkv")
    assert heads.frozen is None
    assert (heads.channels, heads.block_size) == (72, 24)
    sub = net.subnet(aw.WidthConfig({"0": 10, "1.qkv": 48, "1.proj": 12}))
    assert sub.get_submodule("1").num_heads == 2
    assert model.get_submodule("1").num_heads == 3
    assert sub.get_parameter("1.qkv.weight").shape == (48, 10)
    assert sub.get_parameter("1.proj.weight").shape == (12, 16)
    assert sub(torch.randn(4, 7, 5)).shape == (4, 7, 2)


def test_a_model_that_cannot_be_captured_says_so() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(AnalysisError, match="Branches could not be captured"):
        aw.Supernet(Branches(), torch.randn(1, 4))
    with pytest.raises(AnalysisError, match="example_inputs contains no tensor"):
        aw.Supernet(nn.Linear(2, 2), "an image")


def test_grouped_query_attention_keeps_queries_with_their_keys() -> None:
    class GroupedQueries(nn.Module):
        """Attention of 4 heads of queries over 2 heads of keys and values, 6 channels each."""

        def __init__(self) -> None:
            super().__init__()
            self.heads, self.kv_heads, self.head_dim = 4, 2, 6
            self.q, self.kv, self.proj = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 24)

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q = self.q(x).view(b, n, self.heads, self.head_dim).transpose(1, 2)
            k, v = self.kv(x).view(b, n, 2, self.kv_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
            x = torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return self.proj(x.transpose(1, 2).reshape(b, n, self.heads * self.head_dim))

    model = nn.Sequential(nn.Linear(5, 24), GroupedQueries(), nn.Linear(24, 2))
    net = aw.Supernet(model, torch.randn(2, 7, 5), divisor=1)
    assert net.elastic_share == 1.0
    sub = net.extract(0.5, calibrated=False)
    assert sub(torch.randn(4, 7, 5)).shape == (4, 7, 2)
    assert sub.get_parameter("1.q.weight").shape == sub.get_parameter("1.kv.weight").shape == (12, 12)


def test_one_head_is_narrowed_inside_and_scaled_by_what_is_left_of_it() -> None:
    model = nn.Sequential(nn.Linear(5, 24), Attention(num_heads=1), nn.Linear(24, 2))
    net = aw.Supernet(model, torch.randn(2, 7, 5), divisor=1)
    assert {group.name: group.frozen for group in net.groups[:3]} == {"0": None, "1.qkv": None, "1.proj": None}
    assert net.subnet(0.5)(torch.randn(4, 7, 5)).shape == (4, 7, 2)


class Layer(nn.Module):
    """A convolution in a class that is used everywhere."""

    def __init__(self, inward: int, outward: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inward, outward, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Flipped(nn.Module):
    """A block in which a wrong rule for flip shows."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Layer(4, 16), Layer(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)).flip(1))


def test_what_fails_twice_in_a_class_is_frozen_in_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    proofs = []
    prove = Prover.prove

    def counted(
        self: Prover, analysis: Analysis, groups: Sequence[ChannelGroup], draws: Sequence[int] = ()
    ) -> Failure | None:
        proofs.append(len(groups))
        return prove(self, analysis, groups, draws)

    monkeypatch.setitem(OPERATORS._records, "aten.flip", replace(OPERATORS.find("aten.flip"), labels=unmoved))
    monkeypatch.setattr(Prover, "prove", counted)
    net = aw.Supernet(nn.Sequential(Layer(1, 4), *(Flipped() for _ in range(16))), torch.randn(1, 1, 4, 4))
    assert [group.name for group in net.groups if group.name.endswith("first.conv") and not group.frozen] == []
    assert [g.name for g in net.groups if g.name.endswith("second.conv") and g.frozen] == ["16.second.conv"]
    assert len(proofs) <= 15


def test_groups_that_fail_only_together_do_not_freeze_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def together(
        self: Prover, analysis: Analysis, groups: Sequence[ChannelGroup], draws: Sequence[int] = ()
    ) -> Failure | None:
        names = {group.name for group in groups}
        return Failure("its narrowed network differs") if {"1", "4"} <= names else None

    monkeypatch.setattr(Prover, "prove", together)
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 8), *(nn.Linear(8, 8) for _ in range(6))), torch.randn(1, 4))
    assert [group.name for group in net.groups if group.frozen] == ["4", "6"]


def test_tokens_that_are_parameters_are_no_channels() -> None:
    class Registers(nn.Module):
        """Attention over inputs and a few learned tokens, which the output leaves out."""

        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Parameter(torch.randn(1, 4, 24))
            self.embed, self.attention, self.head = nn.Linear(5, 24), Attention(), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([self.tokens.expand(len(x), -1, -1), self.embed(x)], 1)
            return self.head(self.attention(x)[:, 4:].mean(1))

    net = aw.Supernet(Registers(), torch.randn(2, 7, 5), divisor=1)
    assert {group.name for group in net.groups} == {"embed", "attention.qkv", "attention.proj", "head"}
    assert net.subnet(0.5).get_parameter("tokens").shape == (1, 4, 12)


def test_a_reshape_of_channels_of_which_some_are_fixed_comes_to_an_end() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grow, self.mix, self.head = nn.Linear(8, 16), nn.Linear(6, 6), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([x, self.grow(x)], -1).view(len(x), 4, 6)
            return self.head(self.mix(x).reshape(len(x), 24))

    with pytest.warns(UserWarning, match="only 0% of the MACs of Partly"):
        net = aw.Supernet(Partly(), torch.randn(2, 8), divisor=1)
    assert net.subnet(0.5)(torch.randn(3, 8)).shape == (3, 2)


def test_a_split_into_a_part_and_the_rest_follows_both_attributes() -> None:
    class PartlyMixed(nn.Module):
        """Mixes the first channels only, such as FasterNet's and SHViT's blocks."""

        def __init__(self, dim: int = 24, part: int = 10) -> None:
            super().__init__()
            self.dim, self.part = dim, part
            self.mix, self.project = nn.Conv2d(part, part, 3, padding=1), nn.Conv2d(dim, dim, 1)

        def forward(self, x: Tensor) -> Tensor:
            mixed, rest = torch.split(x, [self.part, self.dim - self.part], 1)
            return self.project(torch.cat([torch.relu(self.mix(mixed)), rest], 1))

    model = nn.Sequential(nn.Conv2d(3, 24, 1), PartlyMixed(), PartlyMixed(), nn.Conv2d(24, 2, 1))
    net = aw.Supernet(model, torch.randn(2, 3, 8, 8), divisor=1)
    assert net.elastic_share == 1.0
    assert [group.name for group in net.groups if group.frozen] == ["3"]
    half = net.extract(0.5, calibrated=False)
    assert (half.get_submodule("1").part, half.get_submodule("1").dim) == (5, 12)


class WithoutValueBias(nn.Module):
    """Attention that zeroes the part of its bias that belongs to the values, in place, in a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.out, self.head = (
            nn.Linear(6, 24),
            nn.Linear(24, 72),
            nn.Linear(24, 24),
            nn.Linear(24, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        bias = self.qkv.bias.clone()
        third = bias.numel() // 3
        bias[2 * third :].zero_()
        packed = F.linear(x, self.qkv.weight, bias).unflatten(2, (3, -1, 6)).permute(2, 0, 3, 1, 4)
        q, k, v = packed.unbind(0)
        return self.head(x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


def test_what_is_written_through_a_view_reaches_the_masked_reference() -> None:
    net = aw.Supernet(WithoutValueBias(), torch.randn(2, 5, 6), divisor=1)
    assert net.elastic_share == 1, net.summary()
    assert {group.name: group.block_size for group in net.analysis.elastic} == {"enter": 1, "qkv": 18}


class Regridding(nn.Module):
    """Replaces a buffer in its forward, whose memory the next tensors take."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.gate, self.o = nn.Linear(6, 32), nn.Parameter(torch.zeros(32)), nn.Linear(32, 4)
        self.register_buffer("grid", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.grid = torch.linspace(0, 1, x.shape[0])
        patch = self.q(x).sigmoid()
        place = (self.grid * 9).sigmoid()[:, None].expand_as(patch)
        return self.o((1.0 - self.gate.sigmoid()) * patch + self.gate.sigmoid() * place)


def test_tensors_of_a_forward_are_not_taken_for_replaced_buffers() -> None:
    weights = {"buffer": torch.zeros(3), "weight": nn.Parameter(torch.ones(2))}
    old = id(weights["buffer"])
    received: list[int] = []
    reads = Reads(weights, lambda key, index, tensors: received.append(len(tensors)))
    del weights["buffer"]
    made = [torch.ones(2) for _ in range(200)]
    assert all(id(tensor) != old for tensor in made)
    with reads:
        for tensor in made:
            torch.mul(weights["weight"], tensor)
    assert received == [1] * len(made)
    assert aw.Supernet(Regridding(), torch.randn(5, 6)).analysis.groups[0].frozen is None
