"""Copies and pickles of supernets and subnets are independent of the originals."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from built_once import built_once
from zoo import find


def by_torch(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: list[Callable[[Any], Any]] = [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value)), by_torch]
each_way = pytest.mark.parametrize("way", WAYS, ids=["deepcopy", "pickle", "torch.save"])


@built_once
def calibrated(**options: Any) -> tuple[aw.Supernet, Tensor]:
    model, x = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 5)), torch.randn(8, 4)
    net = aw.Supernet(model.eval(), x, **options)
    if not options:
        aw.calibrate(net, [x], [0.5])
    return net, x


@each_way
def test_a_supernet_is_copied_with_its_statistics_and_sampler(way: Callable[[Any], Any]) -> None:
    net, x = calibrated()
    net.sampler.sandwich(4)
    twin = way(net)
    wanted = net.subnet(0.5)(x)
    assert torch.equal(twin.subnet(0.5)(x), wanted)
    assert torch.equal(twin.extract(0.5)(x), wanted)
    assert twin.sampler.sandwich(4) == net.sampler.sandwich(4)
    twin.subnet(0.5).train()(x).sum().backward()
    assert twin.model[0].weight.grad is not None
    assert net.model[0].weight.grad is None
    with torch.no_grad():
        twin.model[0].weight.add_(1)
    assert torch.equal(net.subnet(0.5)(x), wanted)
    with pytest.raises(aw.AnywidthError, match="before the weights changed"):
        twin.extract(0.5)


@each_way
def test_switches_are_copied(way: Callable[[Any], Any]) -> None:
    net, x = calibrated(switches=(0.5, 1.0))
    with torch.no_grad():
        for parameter in net.switch_parameters():
            parameter.add_(1)
    twin = way(net)
    assert torch.equal(twin.subnet(0.5)(x), net.subnet(0.5)(x))
    ours, theirs = set(map(id, net.parameters())), list(twin.parameters())
    assert len(ours) == len(theirs)
    assert not ours & set(map(id, theirs))


def test_a_model_and_its_supernet_stay_together() -> None:
    net, _ = calibrated()
    both = copy.deepcopy({"net": net, "model": net.model})
    assert both["net"].model is both["model"]
    assert both["net"].subnet(1.0) is both["model"]


@each_way
@pytest.mark.parametrize("name", ["concat", "grouped conv", "residual"])
def test_a_subnet_is_copied_as_it_is_now_and_goes_its_own_way(way: Callable[[Any], Any], name: str) -> None:
    case = find(name)
    net, x = aw.Supernet(case.model().train(), case.example(), divisor=1), case.example(1)
    subnet = net.subnet(0.5)
    for parameter in net.model.parameters():
        parameter.data.mul_(1.5)
    twin = way(subnet)
    wanted = subnet(x)
    torch.testing.assert_close(twin(x), wanted)
    twin(x).sum().backward()
    assert all(parameter.grad is None for parameter in net.model.parameters())
    assert any(parameter.grad is not None for parameter in twin.parameters())
    for parameter in net.model.parameters():
        parameter.data.mul_(2)
    torch.testing.assert_close(twin(x), wanted)
    mine = {tensor.untyped_storage().data_ptr() for tensor in net.model.state_dict().values()}
    assert not mine & {tensor.untyped_storage().data_ptr() for tensor in twin.state_dict().values()}


def test_part_of_a_subnet_is_copied_as_it_is_now() -> None:
    case = find("concat")
    net = aw.Supernet(case.model().train(), case.example(), divisor=1)
    subnet = net.subnet(0.5)
    for parameter in net.model.parameters():
        parameter.data.mul_(1.5)
    twin = copy.deepcopy(subnet.fuse)
    assert torch.equal(twin.weight, net.extract(0.5, calibrated=False).fuse.weight)
    assert type(twin._parameters) is dict
