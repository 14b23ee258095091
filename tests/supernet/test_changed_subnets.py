"""Subnets that the user changes: the supernet, its weights and its later subnets stay as they are."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import anywidth as aw
from anywidth.core.errors import AnywidthError, ModelChangedError

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Dropout(0.0), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)
    )


def replace(subnet: nn.Sequential) -> None:
    subnet[3] = nn.GELU()


def set_attribute(subnet: nn.Sequential) -> None:
    subnet[1].p = 0.5


def set_forward(subnet: nn.Sequential) -> None:
    subnet.forward = lambda x: x  # type: ignore[method-assign]


CHANGES: list[Callable[[nn.Sequential], object]] = [
    lambda s: s.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
    lambda s: s.bfloat16(),
    lambda s: s.double(),
    lambda s: s[0].half(),
    lambda s: s.to("meta"),
    lambda s: prune.l1_unstructured(s[2], "weight", 0.5),
    lambda s: parametrizations.spectral_norm(s[2]),
    lambda s: s.append(nn.ReLU()),
    replace,
    set_attribute,
    set_forward,
]
IDS = [
    "channels_last",
    "bfloat16",
    "double",
    "part",
    "meta",
    "prune",
    "norm",
    "append",
    "module",
    "attribute",
    "forward",
]


@pytest.mark.parametrize("change", CHANGES, ids=IDS)
def test_a_changed_subnet_is_nobody_elses(change: Callable[[nn.Sequential], object]) -> None:
    model = network()
    net = aw.Supernet(model, X)
    wanted = net.subnet(0.5)(X)
    before = copy.deepcopy(model.state_dict())
    changed = net.subnet(0.5)
    change(changed)  # type: ignore[arg-type]
    assert net.subnet(0.5) is not changed
    torch.testing.assert_close(net.subnet(0.5)(X), wanted)
    now = model.state_dict()
    assert now.keys() == before.keys()
    assert all(now[name].dtype == before[name].dtype and torch.equal(now[name], before[name]) for name in now)
    losses = aw.sandwich_step(net, X, torch.tensor([0, 1]), widths=[1.0, 0.5], distillation=None).losses
    torch.testing.assert_close(losses[1], nn.functional.cross_entropy(wanted, torch.tensor([0, 1])).detach())


@pytest.mark.parametrize("convert", CHANGES[:4], ids=IDS[:4])
def test_a_subnet_without_the_weights_of_its_supernet_is_refused(convert: Callable[[nn.Sequential], object]) -> None:
    net = aw.Supernet(network(), X)
    subnet = net.subnet(0.5)
    convert(subnet)  # type: ignore[arg-type]
    with pytest.raises(ModelChangedError, match=r"its weights were moved or converted.*net.extract\(width\).half\(\)"):
        subnet(X.bfloat16())


def test_a_held_subnet_of_a_moved_model_is_refused() -> None:
    model = network()
    net = aw.Supernet(model, X)
    subnet = net.subnet(0.5)
    subnet(X)
    model.double()
    with pytest.raises(ModelChangedError, match=r"the supernet's weights were moved.*net.subnet\(width\)"):
        subnet(X)
    assert net.subnet(0.5)(X.double()).dtype == torch.float64


def test_a_subnet_is_the_same_while_nobody_changes_it() -> None:
    net = aw.Supernet(network().train(), X)
    subnet = net.subnet(0.5)
    calls: list[Tensor] = []
    handle = subnet.register_forward_hook(lambda _, __, output: calls.append(output))  # a profiler, say
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        aw.sandwich_step(net, X, torch.tensor([0, 1]), widths=[1.0, 0.5])
        optimizer.step()
    net.subnet(0.5).eval()(X)
    assert net.subnet(0.5) is subnet
    assert len(calls) == 3
    handle.remove()
    weak = weakref.ref(subnet)
    del subnet
    net.model.double()
    net.subnet(0.25)
    gc.collect()
    assert weak() is None


@pytest.mark.parametrize("frozen", [(), ("2",)])
def test_an_optimizer_of_a_subnet_is_refused(frozen: tuple[str, ...]) -> None:
    model = network()
    net = aw.Supernet(model, X, frozen=frozen)
    subnet = net.subnet(0.5)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(subnet.parameters(), 0.1)
    subnet(X).sum().backward()
    with pytest.raises(AnywidthError, match=r"this SGD has parameters of a subnet.*net.parameters\(\)"):
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    dense = net.extract(0.5)
    trained = torch.optim.SGD(dense.parameters(), 0.1)
    dense(X).sum().backward()
    trained.step()


@pytest.mark.parametrize("part", [lambda s: s, lambda s: s[0]], ids=["subnet", "layer"])
def test_zero_grad_of_a_subnet_is_refused(part: Callable[[nn.Sequential], nn.Module]) -> None:
    model = network()
    net = aw.Supernet(model, X)
    subnet = net.subnet(0.5)
    subnet(X).sum().backward()
    before = model[0].weight.grad.clone()  # type: ignore[union-attr]
    with pytest.raises(AnywidthError, match=r"zero_grad\(\) of a subnet.*net.model.zero_grad\(\)"):
        part(subnet).zero_grad()  # type: ignore[arg-type]
    assert torch.equal(model[0].weight.grad, before)  # type: ignore[arg-type]
    assert net.subnet(0.5) is subnet
    model.zero_grad()
    assert model[0].weight.grad is None


ASKS: dict[str, Callable[[nn.Module], object]] = {
    "norm": lambda subnet: nn.utils.clip_grad_norm_(subnet.parameters(), 1.0),
    "value": lambda subnet: nn.utils.clip_grad_value_(subnet.parameters(), 0.1),
    "zero": lambda subnet: torch.optim.SGD(subnet.parameters()).zero_grad(),
    "read": lambda subnet: [parameter.grad for parameter in subnet.parameters()],
}


@pytest.mark.parametrize("asks", ASKS)
def test_gradients_of_a_subnet_cannot_be_clipped_or_read(asks: str) -> None:
    model = network()
    net = aw.Supernet(model, X)
    subnet = net.subnet(0.5)
    assert all(parameter.grad is None for parameter in subnet.parameters())
    for step in (
        lambda: subnet(X).sum().backward(),
        lambda: aw.sandwich_step(net, X, torch.zeros(2, dtype=torch.long)),
    ):
        model.zero_grad()
        step()
        before = [parameter.grad.clone() for parameter in model.parameters()]  # type: ignore[union-attr]
        with pytest.raises(AnywidthError, match=r"of a subnet keeps no gradient.*clip_grad_norm_\(net.parameters"):
            ASKS[asks](subnet)
        assert all(torch.equal(p.grad, b) for p, b in zip(model.parameters(), before, strict=True))  # type: ignore[arg-type]
    assert net.subnet(0.5) is subnet
    nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    assert sum(float(parameter.grad.square().sum()) for parameter in model.parameters()) < 2e-6  # type: ignore[union-attr]


@pytest.mark.parametrize("capture", [True, False], ids=["export", "compile"])
def test_a_subnet_with_gradients_in_the_supernet_is_captured(capture: bool) -> None:
    net = aw.Supernet(network().eval(), X)
    subnet = net.subnet(0.5)
    subnet(X).sum().backward()
    run = torch.export.export(subnet, (X,)).module() if capture else torch.compile(subnet, backend="aot_eager")
    torch.testing.assert_close(run(X), subnet(X))


@pytest.mark.parametrize("nested", [None, (0.5, 1.0)])
def test_a_model_may_be_converted_by_swapping_its_parameters(nested: tuple[float, ...] | None) -> None:
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    net = aw.Supernet(model, torch.randn(2, 4), nested=nested)
    x, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    net.subnet(0.5)(x.float()).sum().backward()
    model.zero_grad()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    torch.testing.assert_close(net.subnet(0.5)(x), net.extract(0.5)(x))
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    (aw.sandwich_step if nested is None else aw.nested_step)(net, x, y)
    optimizer.step()
    torch.testing.assert_close(net.subnet(0.5)(x), net.extract(0.5)(x))
    if nested is not None:
        assert not model[2].weight[:16, 16:].any()  # type: ignore[index]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda subnet: pickle.loads(pickle.dumps(subnet))], ids=["deepcopy", "pickle"]
)
def test_a_copy_of_a_subnet_has_gradients_that_it_can_clear(copied: Callable[[nn.Module], nn.Module]) -> None:
    net = aw.Supernet(network(), X)
    for alone in (copied(net.subnet(0.5)), copied(copied(net.subnet(0.5))), net.extract(0.5)):
        alone(X).sum().backward()
        assert all(type(parameter) is nn.Parameter for parameter in alone.parameters())
        assert alone[0].weight.grad.any()  # type: ignore[index]
        alone.zero_grad()
        assert alone[0].weight.grad is None  # type: ignore[index]
    assert net.model[0].weight.grad is None  # type: ignore[index]


def test_a_frozen_part_of_a_subnet_is_trained_in_steps() -> None:
    model = network().train()
    net = aw.Supernet(model, X)
    net.subnet(0.5)[0].requires_grad_(False)  # type: ignore[operator]
    aw.sandwich_step(net, X, torch.tensor([0, 1]), widths=[0.5])
    assert model[0].weight.grad is not None
    assert net.subnet(0.5)[0].weight.requires_grad  # type: ignore[union-attr]


class Concatenated(nn.Module):
    """A layer that reads two branches, so that its part at a width is not a leading block."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.o = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(32, 5)
        self.r = nn.LSTM(4, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.cat([self.a(x), self.b(x)], -1).relu()) + self.r(x)[0].sum(-1, keepdim=True)


@pytest.mark.parametrize("write", ["load", "clamp", "copy"])
def test_writes_to_any_part_of_a_subnet_reach_the_supernet(write: str) -> None:
    model, x = Concatenated(), torch.randn(2, 3, 4)
    net = aw.Supernet(model, x, divisor=1)
    subnet, other = net.subnet(0.5), copy.deepcopy(model.state_dict())
    wanted = net.extract(0.5)
    with torch.no_grad():
        for parameter in wanted.parameters():
            parameter.copy_(torch.randn_like(parameter)) if write != "clamp" else parameter.clamp_(-0.05, 0.05)
        if write == "load":
            subnet.load_state_dict(wanted.state_dict())
        elif write == "copy":
            for ours, theirs in zip(subnet.parameters(), wanted.parameters(), strict=True):
                ours.copy_(theirs)
        else:
            for parameter in subnet.parameters():
                parameter.clamp_(-0.05, 0.05)
    expected = wanted(x)
    for network in (subnet, net.subnet(0.5), net.extract(0.5)):
        torch.testing.assert_close(network(x), expected)
    assert torch.equal(model.o.weight[:, 8:16], other["o.weight"][:, 8:16])  # of no channel of the subnet


def test_two_writes_to_one_weight_are_refused() -> None:
    model, x = Concatenated(), torch.randn(2, 3, 4)
    subnet = aw.Supernet(model, x, divisor=1).subnet(0.5)
    with torch.no_grad():
        subnet.o.weight.mul_(2)  # type: ignore[union-attr,operator]
        model.o.weight.mul_(3)
    with pytest.raises(ModelChangedError, match="changed in a subnet and in the supernet"):
        subnet(x)
