"""Subnets follow what is changed in the model after the supernet was made."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import ModelChangedError, UncalibratedError
from anywidth.supernet import tracked_state
from built_once import built_once
from fast import fast_and_slow


class Net(nn.Module):
    """Two branches whose concatenation is gathered, a drop and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(4, 16)
        self.act: nn.Module = nn.ReLU()
        self.drop = nn.Dropout(0.0)
        self.fc = nn.Linear(32, 5)
        self.scale = 1.0
        self.options = {"shift": 0.0}

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(torch.cat([self.a(x), self.b(x)], 1))
        return self.scale * self.fc(self.drop(hidden)) + self.options["shift"]


COLUMNS = [*range(8), *range(16, 24)]


def half(model: Net, x: Tensor) -> Tensor:
    """Width 0.5 computed by hand from the weights as they are now."""
    hidden = torch.cat([model.a(x)[:, :8], model.b(x)[:, :8]], 1)
    output = nn.functional.linear(model.act(hidden), model.fc.weight[:, COLUMNS], model.fc.bias)
    return model.scale * output + model.options["shift"]


@built_once
def made() -> tuple[Net, aw.Supernet, Tensor]:
    model, x = Net().double().eval(), torch.randn(6, 4, dtype=torch.float64)
    net = aw.Supernet(model, x)
    net.subnet(0.5)(x)
    return model, net, x


def replace_head(model: Net) -> None:
    model.fc = nn.Linear(32, 5).double()


def resize_head(model: Net) -> None:
    model.fc = nn.Linear(32, 7).double()


def replace_activation(model: Net) -> None:
    model.act = nn.Tanh()


def replace_parameter(model: Net) -> None:
    model.a.weight = nn.Parameter(torch.randn(16, 4, dtype=torch.float64))


def write_data(model: Net) -> None:
    model.fc.weight.data.mul_(3)


def write_one_number(model: Net) -> None:
    model.fc.weight.data[2, 17] = 5.0


def swap_pointer(model: Net) -> None:
    model.fc.weight.data = torch.randn_like(model.fc.weight)


def set_scale(model: Net) -> None:
    model.scale = 30.0


def set_option(model: Net) -> None:
    model.options["shift"] = 2.0


def step(model: Net) -> None:
    model(torch.ones(1, 4, dtype=torch.float64)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def assign(model: Net) -> None:
    model.load_state_dict({k: v + 1 for k, v in copy.deepcopy(model.state_dict()).items()}, assign=True)


def parametrize(model: Net) -> None:
    nn.utils.parametrizations.weight_norm(model.a)
    model.a.parametrizations.weight.original0.data.mul_(2)  # type: ignore[union-attr]


EDITS = [
    replace_head, resize_head, replace_activation, replace_parameter, write_data, write_one_number, swap_pointer,
    set_scale, set_option, step, assign, parametrize,
]  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_the_next_subnet_and_extraction_follow(edit: Callable[[Net], None]) -> None:
    model, net, x = made()
    edit(model)
    wanted = half(model, x)
    torch.testing.assert_close(net.subnet(0.5)(x), wanted)
    torch.testing.assert_close(net.extract(0.5)(x), wanted)
    assert net.subnet(1.0) is model
    outputs = model.fc.out_features
    assert aw.macs(net, 0.5) == aw.macs(aw.Supernet(copy.deepcopy(model), x), 0.5)
    assert wanted.shape == (6, outputs)


@pytest.mark.parametrize("edit", [write_data, write_one_number, swap_pointer, step])
def test_a_subnet_that_is_held_has_the_present_weights(edit: Callable[[Net], None]) -> None:
    model, net, x = made()
    subnet = net.subnet(0.5)
    if edit is swap_pointer:
        subnet(x)
        edit(model)
        subnet = net.subnet(0.5)
    else:
        edit(model)
    wanted = model.fc.weight.detach()[:, COLUMNS]
    assert torch.equal(subnet.fc.weight, wanted)
    assert torch.equal(subnet.state_dict()["fc.weight"], wanted)
    assert torch.equal(dict(subnet.named_parameters())["fc.weight"], wanted)
    assert torch.equal(copy.deepcopy(subnet).fc.weight, wanted)
    torch.testing.assert_close(subnet(x), half(model, x))


def test_gradients_reach_a_new_head() -> None:
    model, net, x = made()
    replace_head(model)
    net.subnet(0.5)(x).sum().backward()
    assert model.fc.weight.grad is not None
    assert not model.fc.weight.grad[:, 8:16].any()
    assert model.fc.weight.grad[:, COLUMNS].any()


def test_frozen_parameters_get_no_gradients() -> None:
    model, net, x = made()
    model.a.requires_grad_(False)
    net.subnet(0.5)(x).sum().backward()
    assert model.a.weight.grad is None
    assert model.b.weight.grad is not None


def test_hooks_come_and_go() -> None:
    model, net, x = made()
    seen: list[tuple[int, ...]] = []
    handle = model.a.register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape)))
    root = model.register_forward_hook(lambda m, i, o: o + 1)
    torch.testing.assert_close(net.subnet(0.5)(x), half_without_hooks(model, x) + 1)
    assert seen[:1] == [(6, 8)]
    handle.remove()
    root.remove()
    seen.clear()
    torch.testing.assert_close(net.subnet(0.5)(x), half(model, x))
    assert not seen


def half_without_hooks(model: Net, x: Tensor) -> Tensor:
    plain = copy.deepcopy(model)
    plain.a._forward_hooks.clear()
    return half(plain, x)


def test_flags_follow_the_model_until_the_subnet_is_switched_itself() -> None:
    model, net, _ = made()
    model.train()
    assert all(m.training for m in net.subnet(0.5).modules())
    model.eval()
    assert not any(m.training for m in net.subnet(0.5).modules())
    model.train()
    model.drop.eval()
    assert net.subnet(0.5).training
    assert not net.subnet(0.5).drop.training
    net.subnet(0.5).eval()
    assert not net.subnet(0.5).training  # the model has not been switched since
    model.eval()
    model.train()
    model.a.eval()
    assert net.subnet(0.5).training


def test_a_step_leaves_the_flags_of_the_model() -> None:
    model, net, x = made()
    model.train()
    aw.sandwich_step(net, x, torch.zeros(6, dtype=torch.long), widths=[1.0, 0.5])
    assert net.subnet(0.5).drop.training


def test_dropout_of_another_strength_reaches_subnets() -> None:
    model, net, _ = made()
    model.drop.p = 0.9
    assert net.subnet(0.5).drop.p == 0.9


@built_once
def normed() -> tuple[nn.Sequential, aw.Supernet, Tensor]:
    model, x = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)), torch.randn(8, 4)
    net = aw.Supernet(model.eval(), x)
    aw.calibrate(net, [x], [0.5])
    return model, net, x


@pytest.mark.parametrize("number", [(0, 0), (13, 2), (31, 3)])
def test_one_number_written_through_data_makes_statistics_out_of_date(number: tuple[int, int]) -> None:
    model, net, _ = normed()
    net.extract(0.5)
    model[0].weight.data[number] += 1e-3  # type: ignore[index, operator]
    with pytest.raises(UncalibratedError, match="before the weights changed"):
        net.extract(0.5)


def test_an_average_swapped_in_makes_statistics_out_of_date_and_swapped_out_current() -> None:
    model, net, x = normed()
    wanted = net.subnet(0.5)(x)
    for parameter in model.parameters():
        parameter.data.add_(0.5)
    with pytest.raises(UncalibratedError):
        net.subnet(0.5)(x)
    for parameter in model.parameters():
        parameter.data.sub_(0.5)
    aw.calibrate(net, [x], [0.5])
    torch.testing.assert_close(net.subnet(0.5)(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_changed_number_makes_statistics_out_of_date() -> None:
    model, net, _ = normed()
    model[1].eps = 0.1  # type: ignore[assignment]
    with pytest.raises(UncalibratedError):
        net.extract(0.5)


def test_an_added_batch_norm_needs_statistics() -> None:
    x = torch.randn(8, 4)
    model = nn.Sequential(nn.Linear(4, 32), nn.Identity(), nn.ReLU(), nn.Linear(32, 3)).eval()
    net = aw.Supernet(model, x)
    net.subnet(0.5)(x)
    model[1] = nn.BatchNorm1d(32).eval()
    with pytest.raises(UncalibratedError, match="no batch-norm statistics"):
        net.subnet(0.5)(x)
    aw.calibrate(net, [x], [0.5])
    assert net.subnet(0.5)(x).isfinite().all()


def test_frozen_patterns_are_applied_again() -> None:
    x = torch.randn(2, 4)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    net = aw.Supernet(model, x, frozen="0")
    model[4] = nn.Linear(32, 9)
    assert net.config(0.5) == aw.WidthConfig({"2": 16})
    assert net.subnet(0.5)(x).shape == (2, 9)


@pytest.mark.parametrize("options", [{"order": "l1"}, {"switches": (0.5, 1.0)}])
def test_what_cannot_follow_is_refused_until_it_is_put_back(options: dict[str, object]) -> None:
    x = torch.randn(4, 4)
    model = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    net = aw.Supernet(model, x, **options)  # type: ignore[arg-type]
    head = model[3]
    model[3] = nn.Linear(32, 9)
    for _ in range(2):
        with pytest.raises(ModelChangedError, match="'3' had shape .* build a new Supernet"):
            net.subnet(0.5)
    model[3] = head
    assert net.subnet(0.5).train()(x).shape == (4, 3)


class Term(nn.Module):
    """Adds a term whose size depends on the number of channels, with a factor that may be zero."""

    def __init__(self, factor: float, *, elastic: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.alpha, self.elastic = nn.Linear(4, 16), nn.Linear(16, 5), factor, elastic
        self.register_buffer("gate", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        h = h * (1 + self.gate * (1 if self.elastic else h.shape[1]))
        return self.b(h + self.alpha * (h if self.elastic else h / h.shape[1]))


TERMS: dict[str, Callable[[Any], object]] = {
    "attribute": lambda model: setattr(model, "alpha", 1.0),
    "buffer": lambda model: model.gate.fill_(1.0),
    "loaded": lambda model: model.load_state_dict({**model.state_dict(), "gate": torch.ones(1)}),
}


@pytest.mark.parametrize("edit", TERMS)
def test_a_term_that_was_zero_is_proved_again(edit: str) -> None:
    model, x = Term(0.0), torch.randn(6, 4)
    net = aw.Supernet(model, x, divisor=1)
    assert net.analysis.elastic
    TERMS[edit](model)
    assert not net.analysis.elastic


def test_a_temperature_is_proved_again_only_where_it_is_far_from_the_proved_one(monkeypatch) -> None:
    model, x = Term(3.0, elastic=True), torch.randn(6, 4)
    net = aw.Supernet(model, x, divisor=1)
    analysis, runs = net.analysis, []
    monkeypatch.setattr(tracked_state, "analyse", lambda *args, **options: (runs.append(1), analysis)[1])
    for step in range(30):
        model.alpha = 3.0 + step / 2
        net.follow()
    assert len(runs) == 2
    assert net.analysis is analysis


@pytest.mark.parametrize("elastic", [True, False])
def test_a_number_is_refused_with_an_order_only_where_groups_change(elastic: bool) -> None:
    model, x = Term(0.0, elastic=elastic), torch.randn(6, 4)
    net = aw.Supernet(model, x, divisor=1, order="l1")
    model.alpha = 1.0
    if elastic:
        torch.testing.assert_close(net.subnet(0.5)(x), net.extract(0.5)(x))
    for _ in range(0 if elastic else 2):
        with pytest.raises(ModelChangedError, match="alpha of the model itself has a different value"):
            net.subnet(0.5)


class Warming(Term):
    """Its factor grows with every forward in training; a number that nothing is computed from counts them."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.training:
            self.alpha = min(1.0, self.alpha + 0.25)
        return super().forward(x)


def test_a_factor_that_a_forward_changes_is_proved_again() -> None:
    model, x = Warming().eval(), torch.randn(6, 4)
    net = aw.Supernet(model, x, divisor=1)
    assert net.effects.numbers == ("alpha", "calls")
    model(x)
    assert net.analysis.elastic
    model.train()(x)
    assert not net.analysis.elastic


def test_a_number_that_only_counts_is_not_proved_again(monkeypatch) -> None:
    model, x = Warming().eval(), torch.randn(6, 4)
    net = aw.Supernet(model, x, divisor=1)
    monkeypatch.setattr(tracked_state, "analyse", lambda *_, **__: pytest.fail("analysed again"))
    subnet = net.subnet(0.5)
    for _ in range(5):
        model(x)
        subnet(x)
        assert net.subnet(0.5) is subnet
    assert model.calls == 10


@dataclass
class Config:
    act: Callable[[Tensor], Tensor]
    scale: float = 1.0
    inner: Any = None


class Slotted:
    __slots__ = ("scale",)

    def __init__(self) -> None:
        self.scale = 1.0


class Configured(nn.Module):
    """Scales its hidden layer by numbers that objects of many kinds hold."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 5)
        self.config = Config(torch.relu, inner=Config(torch.relu))
        self.space = SimpleNamespace(scale=1.0, layer=nn.Linear(2, 2), kind=int | None, picked=slice(1))
        self.slots, self.array, self.raw = Slotted(), np.ones(1), bytearray(b"\x01")
        self.tensor, self.tensors = torch.ones(1), [torch.ones(1)]
        self.large, self.large_array, self.act = torch.ones(2000), np.ones(2000), nn.Identity()
        self.many, self.deep = [1.0] * 2000, {"a": {"b": {"c": {"d": {"e": 1.0}}}}}
        self.layers = [nn.Linear(5, 5)]
        self.times = functools.partial(scaled, scale=1.0)
        self.counter = SimpleNamespace(calls=0, owner=self)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.config.scale * self.config.inner.scale * self.space.scale * self.slots.scale * self.many[0]
        scale *= float(self.array[0]) * self.raw[0] * self.deep["a"]["b"]["c"]["d"]["e"]
        scale *= float(self.large_array[7])
        h = self.act(self.config.act(self.a(x))) * scale * self.tensor * self.tensors[0] * self.large[7]
        return self.times(self.layers[0](self.b(h)))


def scaled(x: Tensor, scale: float) -> Tensor:
    return x * scale


CONTENTS: dict[str, Callable[[Any], object]] = {
    "function": lambda model: setattr(model.config, "act", torch.tanh),
    "field": lambda model: setattr(model.config, "scale", 3.0),
    "nested field": lambda model: setattr(model.config.inner, "scale", 3.0),
    "namespace": lambda model: setattr(model.space, "scale", 3.0),
    "slots": lambda model: setattr(model.slots, "scale", 3.0),
    "array": lambda model: model.array.fill(3.0),
    "bytes": lambda model: model.raw.__setitem__(0, 3),
    "tensor data": lambda model: model.tensor.data.fill_(3.0),
    "tensor memory": lambda model: model.tensors[0].numpy().fill(3.0),
    "large tensor": lambda model: model.large.data.fill_(3.0),
    "large array": lambda model: model.large_array.__setitem__(7, 3.0),
    "class": lambda model: setattr(model.act, "__class__", nn.Tanhshrink),
    "long list": lambda model: model.many.__setitem__(0, 3.0),
    "deep dict": lambda model: model.deep["a"]["b"]["c"]["d"].__setitem__("e", 3.0),
    "layer of a list": lambda model: setattr(model.layers[0], "weight", nn.Parameter(torch.randn(5, 5))),
    "partial": lambda model: model.times.keywords.__setitem__("scale", 3.0),
}


FAST = {"function", "nested field", "slots", "tensor memory", "large array", "deep dict", "layer of a list", "partial"}


@pytest.mark.parametrize("edit", fast_and_slow(CONTENTS, FAST))
def test_what_attributes_hold_is_followed(edit: str) -> None:
    model, x = Configured().eval(), torch.randn(6, 4)
    net = aw.Supernet(model, x, divisor=1)
    net.subnet(0.5)(x)
    before = model(x)
    CONTENTS[edit](model)
    assert not torch.allclose(model(x), before)
    torch.testing.assert_close(net.subnet(0.5)(x), net.extract(0.5)(x))


def test_an_object_that_holds_the_model_is_not_looked_into() -> None:
    model, x = Configured().eval(), torch.randn(6, 4)
    net = aw.Supernet(model, x, divisor=1)
    subnet = net.subnet(0.5)
    model.counter.calls += 1
    assert net.subnet(0.5) is subnet


class Caching(nn.Module):
    """A head that keeps a grid for the size of image that it has seen last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 2, 1)
        self.size: tuple[int, ...] | None = None
        self.grid = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.size != x.shape:
            self.size = x.shape
            self.grid = torch.arange(x.shape[-1], dtype=x.dtype)
        return self.head(self.conv(x).relu()) + self.grid


def test_caches_of_a_forward_are_no_change() -> None:
    model = Caching()
    net = aw.Supernet(model, torch.randn(1, 3, 8, 8))
    subnet, generation = net.subnet(0.5), net.generation
    for size in (8, 12, 8):
        model(torch.randn(1, 3, size, size))
        assert net.subnet(0.5) is subnet
    assert net.generation == generation


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([edit for edit in EDITS if edit is not parametrize]), min_size=1, max_size=4))
def test_any_edits_give_what_a_fresh_supernet_gives(edits: list[Callable[[Net], None]]) -> None:
    model, net, x = made()
    for edit in edits:
        edit(model)
        net.subnet(0.75)(x)
    fresh = aw.Supernet(copy.deepcopy(model), x)
    for width in (0.5, 0.75, 1.0):
        torch.testing.assert_close(net.subnet(width)(x), fresh.subnet(width)(x))
        torch.testing.assert_close(net.extract(width)(x), fresh.extract(width)(x))
