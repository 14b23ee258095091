"""What a network returns is found in any object, so that a hidden tensor in it keeps its channels."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anywidth import Supernet


class AttributeDict(dict[str, Any]):
    """A dictionary of a class that torch does not know."""


class Slots:
    __slots__ = ("features",)

    def __init__(self, features: Tensor) -> None:
        self.features = features


class Net(nn.Module):
    def __init__(self, pack: Any) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 5)
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        features = self.a(x).relu()
        return self.c(self.b(features).relu()), self.pack(features=features)


@pytest.mark.parametrize("pack", [dict, AttributeDict, types.SimpleNamespace, Slots])
def test_a_returned_hidden_tensor_keeps_its_channels(pack: Any) -> None:
    net = Supernet(Net(pack), torch.randn(4, 8))
    sub = net.subnet(0.5)
    assert sub.get_submodule("a").weight.shape == (32, 8)
    assert sub.get_submodule("b").weight.shape == (16, 32)
