"""Functions that keep the model: those of subnets and extracts keep the subnet, never the supernet."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import AnalysisError
from anywidth.groups.duplicate import duplicate
from proofs import assert_close


class Scaled(nn.Module):
    """linear, `act`, linear; `act` is a ReLU times `scale`, by one of many ways to keep the module in a function."""

    def __init__(self, bind: Callable[[Scaled], None]) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, 32), nn.Linear(32, 5), nn.Parameter(torch.tensor(2.0))
        self.act: Any = None
        bind(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))

    def times(self, x: Tensor) -> Tensor:
        return x.relu() * self.scale


def as_lambda(model: Scaled) -> None:
    model.act = lambda x: x.relu() * model.scale


def as_default(model: Scaled) -> None:
    model.act = lambda x, me=model: x.relu() * me.scale


def as_keyword_default(model: Scaled) -> None:
    def act(x: Tensor, *, me: Scaled = model) -> Tensor:
        return me.times(x)

    model.act = act


def as_method(model: Scaled) -> None:
    model.act = model.times


def as_method_in_a_cell(model: Scaled) -> None:
    method = model.times
    model.act = lambda x: method(x)


def as_partial(model: Scaled) -> None:
    model.act = functools.partial(Scaled.times, model)


def as_nested_functions(model: Scaled) -> None:
    def inner(x: Tensor) -> Tensor:
        return model.times(x)

    functions = {"act": [functools.partial(inner)]}
    model.act = lambda x: functions["act"][0](x)


def as_weak_reference(model: Scaled) -> None:
    reference = weakref.ref(model)
    model.act = lambda x: reference().times(x)


def as_proxy(model: Scaled) -> None:
    proxy = weakref.proxy(model)
    model.act = lambda x: x.relu() * proxy.scale


def as_weak_method(model: Scaled) -> None:
    method: Any = weakref.WeakMethod(model.times)
    model.act = lambda x: method()(x)


def as_wrapped(model: Scaled) -> None:
    @functools.wraps(model.times)
    def act(x: Tensor) -> Tensor:
        return act.__wrapped__(x)

    model.act = act


class Helper:
    def __init__(self, model: Scaled) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        return self.model.times(x)


def as_object(model: Scaled) -> None:
    model.act = Helper(model)


def as_object_in_a_cell(model: Scaled) -> None:
    helper = Helper(model)
    model.act = lambda x: helper(x)


def as_replaced_forward(model: Scaled) -> None:
    """As accelerate does."""
    model.act = nn.functional.relu
    before = model.forward

    def forward(module: Scaled, x: Tensor) -> Tensor:
        return before(x) * module.scale

    model.forward = functools.update_wrapper(functools.partial(forward, model), before)


def as_hook(model: Scaled) -> None:
    model.act = nn.Identity()
    model.act.register_forward_hook(lambda module, args, output: output.relu() * model.scale)


def as_pre_hook_by_partial(model: Scaled) -> None:
    def scale(me: Scaled, module: nn.Module, args: tuple[Tensor]) -> Tensor:
        return me.times(args[0])

    model.act = nn.Identity()
    model.act.register_forward_pre_hook(functools.partial(scale, model))


WAYS = [value for name, value in list(globals().items()) if name.startswith("as_")]


@pytest.mark.parametrize("bind", WAYS)
def test_subnets_and_extracts_use_what_is_theirs(bind: Callable[[Scaled], None]) -> None:
    torch.manual_seed(0)
    model, x = Scaled(bind), torch.randn(3, 4)
    net = aw.Supernet(model, x)
    assert dict(net.config(0.5)) == {"a": 16}
    dense = net.extract(0.5)
    with torch.no_grad():
        before = dense(x)
        model.scale.fill_(20.0)
        model.a.weight.mul_(3)
        assert_close(dense(x), before, 0)
    inner = F.linear(x, model.a.weight[:16], model.a.bias[:16]).relu() * (1 if bind is as_replaced_forward else 20)
    wanted = F.linear(inner, model.b.weight[:, :16], model.b.bias) * (20 if bind is as_replaced_forward else 1)
    sub = net.subnet(0.5)
    assert_close(sub(x), wanted, 1e-5)
    sub(x).sum().backward()
    assert float(model.scale.grad) != 0


class Features(nn.Module):
    """A second head reads what a hook put into a container of the model."""

    def __init__(self, method: bool, container: Any) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 32), nn.Linear(32, 5), nn.Linear(32, 5)
        features = self.features = container
        if method:
            self.a.register_forward_hook(self.keep)
        else:
            self.a.register_forward_hook(lambda module, args, output: _put(features, output))

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        _put(self.features, output)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x).relu())
        kept = self.features["a"] if isinstance(self.features, dict) else self.features[-1]
        self.features.clear()
        return y + self.head(kept)


def _put(container: Any, output: Tensor) -> None:
    if isinstance(container, dict):
        container["a"] = output
    else:
        container.append(output)


@pytest.mark.parametrize("container", [{}, []], ids=["dict", "list"])
@pytest.mark.parametrize("method", [True, False], ids=["method", "lambda"])
def test_a_container_in_a_hook_is_that_of_the_subnet(method: bool, container: Any) -> None:
    model, x = Features(method, type(container)()), torch.randn(3, 4)
    net = aw.Supernet(model, x)
    assert net.elastic_share == 1
    a = F.linear(x, model.a.weight[:16], model.a.bias[:16])
    wanted = F.linear(a.relu(), model.b.weight[:, :16], model.b.bias)
    wanted = wanted + F.linear(a, model.head.weight[:, :16], model.head.bias)
    assert_close(net.subnet(0.5)(x), wanted, 1e-5)
    assert_close(net.extract(1.0)(x), model(x), 0)


def test_what_is_not_the_models_is_shared() -> None:
    seen: list[int] = []
    teacher = nn.Linear(4, 5)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 5))
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.shape[1]))
    model[2].register_forward_hook(lambda module, args, output: output + teacher(torch.ones(4)))
    x = torch.randn(3, 4)
    net = aw.Supernet(model, x)
    seen.clear()
    sub = net.subnet(0.5)
    before = sub(x)
    assert seen == [16]
    with torch.no_grad():
        teacher.bias.add_(1)
    assert_close(sub(x), before + 1, 1e-5)


MODEL: Any = None


def test_a_global_variable_is_refused() -> None:
    global MODEL
    MODEL = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 5))
    MODEL[0].register_forward_hook(lambda module, args, output: output * MODEL[2].bias.mean())
    with pytest.raises(
        AnalysisError, match=r"test_closures.py:\d+.* by the global variable 'MODEL'.*its own arguments"
    ):
        aw.Supernet(MODEL, torch.randn(3, 4))


def test_cells_stay_shared_between_functions() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            count = 0

            def step() -> int:
                nonlocal count
                count += 1
                return count + 0 * len(self._modules)

            self.step, self.read = step, lambda: (count, self)[0]

    model = Counting()
    twin = duplicate(model)
    assert [twin.step(), twin.step(), twin.read(), model.read()] == [1, 2, 2, 0]


def test_attributes_of_subnets_are_independent() -> None:
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 5))
    model.notes, model.table, model.pair = [1, [2]], {"a": {"b": 1}}, ([3], {4})
    net = aw.Supernet(model, torch.randn(3, 4))
    for copy in (net.subnet(0.5), net.extract(0.5), net.extract(1.0)):
        copy.notes[1].append(9)
        copy.table["a"]["b"] = 9
        copy.pair[0].append(9)
        copy.pair[1].add(9)
    assert (model.notes, model.table, model.pair) == ([1, [2]], {"a": {"b": 1}}, ([3], {4}))


class Keeps(nn.Module):
    """Keeps tensors with their gradients: an auxiliary loss, a map in a list, maps appended without end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate, self.b = nn.Linear(6, 32), nn.Linear(32, 4), nn.Linear(32, 3)
        self.aux: Any = None
        self.maps, self.appended = [], []

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        gate = self.gate(h).softmax(-1)
        self.aux, self.maps = gate.square().sum(), [h]
        self.appended.append(h)
        return self.b(h * gate.amax(-1, keepdim=True))


@pytest.mark.parametrize("used", [False, True], ids=["new", "used before"])
def test_tensors_kept_with_gradients(used: bool) -> None:
    model, x, y = Keeps(), torch.randn(8, 6), torch.randint(3, (8,))
    if used:
        model(x)
    kept = len(model.appended)
    net = aw.Supernet(model, x)
    assert len(model.appended) == kept
    for _ in range(3):
        aw.sandwich_step(net, x, y)
        model.zero_grad()
    assert len(model.appended) > kept
    sub = net.extract(0.5)
    assert not isinstance(sub.aux, Tensor) or not sub.aux.requires_grad
    assert all(not h.requires_grad for h in sub.appended)
    sub = net.subnet(0.5)
    sub(x)
    assert sub.maps[0].shape == (8, 16)
    sub.aux.backward()
    assert float(model.gate.weight.grad.abs().sum()) > 0


class Grid(nn.Module):
    """Caches by the shape that it saw last, as detection heads do, and by key, as embeddings of positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 32), nn.Linear(32, 3)
        self.shape: Any = None
        self.grid, self.tables = torch.empty(0), {}

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        if self.shape != h.shape:
            self.shape, self.grid = h.shape, torch.linspace(1, 2, h.shape[1]).expand(h.shape)
        if h.shape[1] not in self.tables:
            self.tables[h.shape[1]] = torch.ones(h.shape[1])
        return self.b(h * self.grid[:, :1] + next(iter(self.tables.values())))


def test_caches_of_the_full_width_do_not_reach_subnets() -> None:
    model, x = Grid(), torch.randn(2, 4)
    net = aw.Supernet(model, x)
    model(x)
    h = F.linear(x, model.a.weight[:16], model.a.bias[:16]).relu()
    wanted = F.linear(h + 1, model.b.weight[:, :16], model.b.bias)
    for sub in (net.subnet(0.5), net.extract(0.5)):
        assert (sub.shape, sub.grid.numel(), sub.tables) == (None, 0, {})
        assert_close(sub(x), wanted, 1e-5)
    assert list(model.tables) == [32]


@pytest.mark.parametrize("full", [False, True], ids=["empty", "filled before"])
def test_caches_and_constants_in_one_dict_are_told_apart(full: bool) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 32), nn.Linear(32, 3)
            self.constants, self.cache = {"mean": torch.tensor(3.0)}, {}

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x - self.constants.get("mean", 0.0)).relu()
            if "gain" not in self.cache:
                self.cache["gain"] = torch.full((h.shape[1],), 2.0)
            return self.b(h * self.cache["gain"])

    model, x = Both(), torch.randn(2, 4)
    if full:
        model(x)
    net = aw.Supernet(model, x)
    assert dict(net.config(0.5)) == {"a": 16}
    h = F.linear(x - 3, model.a.weight[:16], model.a.bias[:16]).relu() * 2
    assert_close(net.subnet(0.5)(x), F.linear(h, model.b.weight[:, :16], model.b.bias), 1e-5)
    assert_close(net.extract(1.0)(x), model(x), 0)


def test_old_weight_norm_follows() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.utils.weight_norm(nn.Linear(32, 4)))
    x = torch.randn(5, 6)
    net = aw.Supernet(model, x)
    h = F.linear(x, model[0].weight[:16], model[0].bias[:16]).relu()
    v, g = model[2].weight_v[:, :16], model[2].weight_g
    wanted = F.linear(h, v * (g / v.norm(dim=1, keepdim=True)), model[2].bias)
    assert_close(net.subnet(0.5)(x), wanted, 1e-5)
    net.subnet(0.5)(x).sum().backward()
    assert float(model[2].weight_v.grad[:, :16].abs().sum()) > 0
