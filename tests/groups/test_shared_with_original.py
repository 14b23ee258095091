"""Objects that lead back to the model and are not copied: the model is refused, because subnets would use its modules."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import AnalysisError

X = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))


class SameCopy:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __deepcopy__(self, _: Any) -> SameCopy:
        return self


def from_class(model: nn.Module) -> Callable[[], Any]:
    class Keeps:
        owner = model

        def __deepcopy__(self, _: Any) -> Any:
            return self

    keeps = Keeps()
    return lambda: keeps.owner


def from_cache(model: nn.Module) -> Callable[[], Any]:
    return functools.lru_cache(lambda: model)


def from_generator(model: nn.Module) -> Callable[[], Any]:
    def forever() -> Iterator[nn.Module]:
        while True:
            yield model

    return forever().__next__


def from_same_copy(model: nn.Module) -> Callable[[], Any]:
    same = SameCopy(model)
    return lambda: same.model


def from_proxy(model: nn.Module) -> Callable[[], Any]:
    proxy = types.MappingProxyType({"model": model})
    return functools.partial(proxy.__getitem__, "model")


class Model(nn.Module):
    """Calls a layer of its own by an object; the layer has elastic channels or none."""

    def __init__(self, find: Callable[[nn.Module], Callable[[], Any]], name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 3), nn.Linear(3, 3)
        self.find, self.name = find(self), name

    def forward(self, x: Tensor) -> Tensor:
        owner = self.find()
        b, d = (owner.b, self.d) if self.name == "b" else (self.b, owner.d)
        return d(self.c(b(self.a(x).relu()).relu()))


@pytest.mark.parametrize("name", ["b", "d"])
@pytest.mark.parametrize("find", [from_class, from_cache, from_generator, from_same_copy, from_proxy])
def test_modules_of_the_full_network_in_a_copy_are_refused(find: Any, name: str) -> None:
    with pytest.raises(AnalysisError, match=rf"a copy of Model still uses {name}\.(weight|bias) of the original"):
        aw.Supernet(Model(find, name), X)


@pytest.mark.parametrize("name", ["b", "d"])
@pytest.mark.parametrize("find", [lambda m: lambda: m, lambda m: lambda held=[m]: held[0]], ids=["closure", "list"])
def test_objects_that_are_copied_lead_to_the_subnet(find: Any, name: str) -> None:
    net = aw.Supernet(Model(find, name), X)
    assert dict(net.config(0.5)) == {"a": 16, "b": 16, "c": 3}
    alone = net.extract(0.5)
    before = alone(X)
    with torch.no_grad():
        net.model.get_parameter(f"{name}.bias").add_(1)
    assert torch.equal(alone(X), before)
    assert (net.subnet(0.5)(X) - before).abs().max() > 1e-3
