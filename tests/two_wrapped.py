"""What two processes that train together are told about wrapped networks, for `training/test_wrappers.py`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

import anywidth as aw
from anywidth.core import unsynchronised
from anywidth.training import sync_gradients

X, Y = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.arange(8) % 3


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


def told(action: Callable[[], object]) -> str:
    """The error of an action, with its class."""
    try:
        action()
    except aw.AnywidthError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def built_on_ddp() -> None:
    aw.Supernet(nn.parallel.DistributedDataParallel(network()), X)


def ddp_around() -> None:
    net = aw.Supernet(network(), X)
    wrapped = nn.parallel.DistributedDataParallel(net.model)
    aw.sandwich_step(net, X, Y)
    del wrapped


def built_on_shards() -> None:
    model = network()
    fully_shard(model)
    aw.Supernet(model, X)


def sharded_later() -> None:
    net = aw.Supernet(network(), X)
    fully_shard(net.model)
    aw.sandwich_step(net, X, Y)


def sharded_inside_later() -> None:
    net = aw.Supernet(network(), X)
    fully_shard(net.model[2])
    aw.sandwich_step(net, X, Y)


def warned(synchronise: Callable[[nn.Module], object], *, accumulate: int = 1, manual: bool = False) -> list[str]:
    """The warnings of two steps of an optimizer."""
    unsynchronised._warned = False
    net = aw.Supernet(network(), X)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(accumulate):
                aw.sandwich_step(net, X, Y)
            synchronise(net.model)
            if manual:
                with torch.no_grad():
                    for parameter in net.model.parameters():
                        parameter.sub_(0.1 * parameter.grad)
            else:
                optimizer.step()
    return [str(warning.message) for warning in caught if "process" in str(warning.message)]


def by_hand(model: nn.Module) -> None:
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def clipped(model: nn.Module) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)


class Embedded(nn.Module):
    """Rows with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.e, self.o = nn.Embedding(20, 16, sparse=True), nn.Linear(16, 3)

    def forward(self, i: torch.Tensor) -> torch.Tensor:
        return self.o(self.e(i).mean(1))


def sparse(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The local and the mean gradient of rows."""
    net = aw.Supernet(Embedded(), torch.zeros(2, 3, dtype=torch.long))
    aw.sandwich_step(net, torch.full((2, 3), 5 * rank), torch.tensor([0, 1]), widths=[1.0, 0.5])
    local = net.model.e.weight.grad.to_dense().clone()  # type: ignore[operator,union-attr]
    sync_gradients(net.model.parameters())
    gradient = net.model.e.weight.grad  # type: ignore[union-attr]
    assert gradient.is_sparse  # type: ignore[union-attr]
    return local, gradient.to_dense()  # type: ignore[operator,union-attr]


def program(rank: int, world: int, folder: Path) -> dict[str, Any]:
    """Everything, in one of two processes."""
    found: dict[str, object] = {
        action.__name__: told(action)
        for action in (built_on_ddp, ddp_around, built_on_shards, sharded_later, sharded_inside_later)
    }
    found["forgotten"] = warned(lambda model: None)
    found["clipped"] = warned(clipped)
    found["manual"] = warned(lambda model: None, manual=True)
    found["synchronised"] = warned(lambda model: sync_gradients(model.parameters()))
    found["accumulated"] = warned(lambda model: sync_gradients(model.parameters()), accumulate=2)
    found["by hand"] = warned(by_hand)
    found["sparse"] = sparse(rank)
    norms = nn.SyncBatchNorm.convert_sync_batchnorm(
        nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3))
    )
    found["synchronised norms"] = aw.Supernet(norms.train(), X).elastic_share
    return found
