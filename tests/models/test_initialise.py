"""The initial weights of the papers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from anywidth.models import initialise


@pytest.mark.parametrize(
    ("layer", "std"),
    [
        (nn.Conv2d(64, 128, 3), math.sqrt(2 / (9 * 128))),
        (nn.Conv2d(512, 512, 5, groups=512), math.sqrt(2 / (25 * 512))),
        (nn.Conv1d(64, 256, 3), math.sqrt(2 / (3 * 256))),
        (nn.Linear(300, 100), 0.01),
    ],
    ids=["conv", "depthwise", "conv1d", "linear"],
)
def test_spread(layer: nn.Conv2d | nn.Conv1d | nn.Linear, std: float) -> None:
    torch.manual_seed(0)
    initialise(layer)
    assert layer.weight.std().item() == pytest.approx(std, rel=0.03)
    assert abs(layer.weight.mean().item()) < 0.05 * std
    assert layer.bias is not None
    assert not layer.bias.any()


def test_norms_start_at_one_and_zero() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.LayerNorm(4), nn.BatchNorm1d(4, affine=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    initialise(model)
    assert {name.split(".")[1]: set(p.tolist()) for name, p in model.named_parameters()} == {
        "weight": {1.0},
        "bias": {0.0},
    }


def test_other_parameters_keep_their_values() -> None:
    embedding = nn.Embedding(3, 4)
    before = embedding.weight.detach().clone()
    initialise(embedding)
    assert torch.equal(embedding.weight, before)


def test_layers_without_bias() -> None:
    initialise(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.Linear(2, 2, bias=False), nn.LayerNorm(2, bias=False)))
