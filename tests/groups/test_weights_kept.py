"""Building a supernet leaves the numbers of the model as they are, whatever its code writes."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from anywidth import Supernet
from anywidth.core.errors import AnalysisError


class Merging(nn.Linear):
    """A low-rank adapter that is merged into the weight for evaluation, as loralib does."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (self.up @ self.down).data * (-1 if mode else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.merged else y + x @ self.down.T @ self.up.T


class Clamping(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.weight.data.clamp_(-0.01, 0.01)
        return super().forward(x)


class Renormalising(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.renorm_(2, 0, 0.1)
        return super().forward(x)


class SilentTrain(nn.Sequential):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [Merging, Clamping, Renormalising])
def test_weights_stay(kind: type[nn.Linear], training: bool) -> None:
    model = nn.Sequential(kind(8, 32), nn.ReLU(), nn.Linear(32, 5))
    model.train(training)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with suppress(AnalysisError):  # a forward that renormalises its weight cannot be captured
        Supernet(model, torch.randn(16, 8))
    assert model.training is training
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=0, atol=0)


def test_train_may_return_nothing() -> None:
    model, x = SilentTrain(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5)), torch.randn(4, 8)
    net = Supernet(model, x)
    assert net.summary()
    torch.testing.assert_close(net.extract(1.0)(x), model(x))
