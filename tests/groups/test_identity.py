"""Models whose code finds modules by identity: copied rightly, or refused."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anywidth import Supernet
from anywidth.core.errors import AnalysisError

_FACTORS: dict[Any, float] = {}


class Net(nn.Module):
    """Three layers, of which subclasses change the second."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 5)
        self.set_up()

    def set_up(self) -> None:
        """What a subclass adds."""

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


class NamesInClosure(Net):
    def set_up(self) -> None:
        names = {module: name for name, module in self.named_modules()}
        self.b.register_forward_hook(lambda module, _, output: output * (3 if names.get(module) == "b" else 1))


class WeakNamesInClosure(Net):
    def set_up(self) -> None:
        names = weakref.WeakKeyDictionary({module: name for name, module in self.named_modules()})
        self.b.register_forward_hook(lambda module, _, output: output * (3 if names.get(module) == "b" else 1))


class WeakSetInClosure(Net):
    def set_up(self) -> None:
        chosen = weakref.WeakSet([self.b])
        self.b.register_forward_hook(lambda module, _, output: output * (3 if module in chosen else 1))


class Slots:
    __slots__ = ("module",)

    def __init__(self, module: nn.Module) -> None:
        self.module = module


class PrivateSlots:
    __slots__ = ("__module",)

    def __init__(self, module: nn.Module) -> None:
        self.__module = module

    def __call__(self, x: Tensor) -> Tensor:
        return self.__module(x)


class SlotsInClosure(Net):
    def set_up(self) -> None:
        self.scale, holder = nn.Linear(32, 32), Slots(self)
        self.b.register_forward_hook(lambda _, __, output: holder.module.scale(output))


class PrivateSlotsInClosure(Net):
    def set_up(self) -> None:
        self.scale = nn.Linear(32, 32)
        holder = PrivateSlots(self.scale)
        self.b.register_forward_hook(lambda _, __, output: holder(output))


class IdInGlobal(Net):
    def set_up(self) -> None:
        _FACTORS[id(self)] = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * _FACTORS.get(id(self), 1.0)


class ParameterInGlobal(Net):
    def set_up(self) -> None:
        _FACTORS[self.b.weight] = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * _FACTORS.get(self.b.weight, 1.0)


class Config:
    """A plain object."""


class AttributeNamedLikeAGlobal(Net):
    def set_up(self) -> None:
        config: Any = Config()
        config.model = Config()
        config.model.scale = 2.0
        self.b.register_forward_hook(lambda _, __, output: output * config.model.scale)


@pytest.mark.parametrize(
    "kind", [NamesInClosure, WeakNamesInClosure, WeakSetInClosure, SlotsInClosure, PrivateSlotsInClosure]
)
def test_a_copy_finds_its_own_modules(kind: type[Net]) -> None:
    model, x = kind(), torch.randn(4, 8)
    net = Supernet(model, x)
    wanted = model(x)
    with torch.no_grad():
        dense = net.extract(1.0)
        torch.testing.assert_close(dense(x), wanted)
        for parameter in model.parameters():
            parameter.zero_()
        torch.testing.assert_close(dense(x), wanted)  # nothing in it is the supernet's


@pytest.mark.parametrize("kind", [IdInGlobal, ParameterInGlobal])
def test_a_model_that_no_copy_equals_is_refused(kind: type[Net]) -> None:
    model, x = kind(), torch.randn(4, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(AnalysisError, match="identity of a module or parameter"):
        Supernet(model, x)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_attribute_named_like_a_global_module_is_not_that_global(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = AttributeNamedLikeAGlobal(), torch.randn(4, 8)
    monkeypatch.setitem(globals(), "model", model)
    net = Supernet(model, x)
    torch.testing.assert_close(net.extract(1.0)(x), model(x))
