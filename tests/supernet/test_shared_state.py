"""Subnets follow attributes of classes, methods replaced on a class, and global and environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw

SHIFT = False
OPTIONS = {"shift": False}
NAMESPACE = SimpleNamespace(shift=False)
COUNTED = 0
CACHE: dict[int, Tensor] = {}


class Switched(nn.Module):
    """A shift over channels, which a subnet cannot do, behind switches that no instance holds."""

    shift = False
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)
        self.variable = "ANYWIDTH_TEST_SHIFT"

    def forward(self, x: Tensor) -> Tensor:
        global COUNTED
        COUNTED += 1
        type(self).calls += 1
        CACHE[x.shape[0]] = torch.zeros(x.shape[0], 1)
        hidden = self.mix(self.a(x))
        if self.shift or SHIFT or OPTIONS["shift"] or NAMESPACE.shift or os.getenv(self.variable) == "1":
            hidden = hidden.cumsum(-1).flip(-1).roll(1, -1)
        return self.b(hidden) + CACHE[x.shape[0]]

    def mix(self, hidden: Tensor) -> Tensor:
        return hidden.relu()


def shifted(self: nn.Module, hidden: Tensor) -> Tensor:
    return hidden.roll(3, -1)


EDITS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "class": lambda patch: patch.setattr(Switched, "shift", True),
    "global": lambda patch: patch.setitem(globals(), "SHIFT", True),
    "container": lambda patch: patch.setitem(OPTIONS, "shift", True),
    "namespace": lambda patch: patch.setattr(NAMESPACE, "shift", True),
    "environment": lambda patch: patch.setenv("ANYWIDTH_TEST_SHIFT", "1"),
    "method": lambda patch: patch.setattr(Switched, "mix", shifted),
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_model_is_analysed_again(edit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Switched(), torch.randn(3, 8)
    net = aw.Supernet(model, x)
    assert net.elastic_share == 1
    EDITS[edit](monkeypatch)
    assert net.elastic_share == 0
    torch.testing.assert_close(net.subnet(0.5)(x), model(x))
    monkeypatch.undo()
    assert net.elastic_share == 1


def test_counters_and_caches_of_a_forward_are_not_changes() -> None:
    model, x = Switched(), torch.randn(3, 8)
    net = aw.Supernet(model, x)
    subnet, generation, calls = net.subnet(0.5), net.generation, Switched.calls
    for batch in (3, 5, 3):
        model(torch.randn(batch, 8))
        assert net.subnet(0.5) is subnet
    assert net.generation == generation
    assert Switched.calls == calls + 3
