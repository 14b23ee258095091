"""Every subnet has one record, which lives as long as the subnet and no longer."""

from __future__ import annotations

import copy
import gc
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.supernet.record import record_of


class Parent(nn.Module):
    """Its child refers back to it, and it contains the buffers of a batch norm itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 32), nn.Linear(32, 3)
        self.register_buffer("mean", torch.zeros(32))
        self.register_buffer("variance", torch.ones(32))
        object.__setattr__(self.first, "parent", self)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.batch_norm(self.first(x), self.mean, self.variance, training=self.training)
        return self.last(torch.relu(hidden))


def step(net: aw.Supernet) -> None:
    aw.sandwich_step(net, torch.randn(8, 4), torch.randint(3, (8,)), widths=[1.0, 0.5])


def test_subnets_have_records_and_other_modules_have_not() -> None:
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)), torch.randn(2, 4))
    subnet = net.subnet(0.5)
    record = record_of(subnet)
    assert record.subnet is subnet
    assert record.config == net.config(0.5)
    assert [record] == net._subnets.records
    assert record_of(net.model) is record_of(subnet[0]) is record_of(copy.deepcopy(subnet)) is None


def test_a_dropped_subnet_is_freed_at_once_with_its_record() -> None:
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Linear(32, 3)), torch.randn(2, 4))
    step(net)
    subnet = ref(net.subnet(0.5))
    record, leaf = ref(record_of(subnet())), ref(subnet()[0].weight)
    gc.disable()
    try:
        net._subnets.clear()
        assert subnet() is record() is leaf() is None
    finally:
        gc.enable()


def test_a_dropped_supernet_frees_its_weights_at_once() -> None:
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.Linear(32, 3)), torch.randn(2, 4))
    weight = ref(net.model[0].weight)
    gc.disable()
    try:
        del net
        assert weight() is None
    finally:
        gc.enable()


def test_a_supernet_whose_modules_refer_to_each_other_is_freed() -> None:
    net = aw.Supernet(Parent(), torch.randn(8, 4))
    step(net)
    net.model.eval()
    net.model.last.train()
    step(net)  # with a frozen batch norm, which is the subnet itself
    subnet, weak = ref(net.subnet(0.5)), ref(net)
    assert record_of(subnet()).norms == [subnet()]
    assert subnet().first.parent is subnet()
    del net
    gc.collect()
    assert subnet() is weak() is None
