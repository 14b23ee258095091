"""Which models compute something else in training than in evaluation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from anywidth.core.inputs import normalise_inputs
from anywidth.core.modules import named_tensors
from anywidth.groups.probe import probe
from zoo import Auxiliary


class DropPath(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rand(len(x), 1, 1, 1) < 0.5) if self.training else x


class ReadsValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(x.sum() > 0)


def test_norms_dropout_and_attention_are_the_same_functions_in_both_modes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(0.1), nn.Flatten(2))
    assert not probe(model, normalise_inputs(torch.randn(2, 3, 4, 4))).modes_differ
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert not probe(attention, normalise_inputs(torch.randn(2, 5, 8))).modes_differ


@pytest.mark.parametrize("model", [DropPath(), Auxiliary(), ReadsValues()], ids=lambda model: type(model).__name__)
def test_what_happens_in_one_mode_only_or_cannot_be_known_counts_as_different(model: nn.Module) -> None:
    assert probe(model, normalise_inputs(torch.randn(2, 3, 8, 8))).modes_differ


def test_stochastic_depth_changes_nothing_about_channels() -> None:
    def block(probability: float) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), StochasticDepth(probability, "row"), nn.ReLU())

    inputs = normalise_inputs(torch.randn(2, 3, 4, 4))
    assert not probe(block(0.5), inputs).modes_differ
    assert probe(nn.Sequential(block(0.5), DropPath()), inputs).modes_differ


def test_asking_leaves_the_model_and_the_random_numbers_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), DropPath())
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in named_tensors(model).items()}
    inputs = normalise_inputs(torch.randn(2, 3, 4, 4))
    state = torch.random.get_rng_state()
    fast = torch.backends.mha.get_fastpath_enabled()
    assert probe(model, inputs).modes_differ
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(dict(named_tensors(model)), before)
    assert not model[1].training
    assert model[2].training
    assert torch.backends.mha.get_fastpath_enabled() == fast
