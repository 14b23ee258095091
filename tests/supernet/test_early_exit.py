"""Early exits answer every sample at the narrowest width that is confident."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import LossError, SettingsError
from anywidth.supernet.early_exit import class_confidence

WIDTHS = (0.25, 0.5, 0.75, 1.0)


def classifier() -> nn.Module:
    layers = (nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)).double().eval()


def nested(model: nn.Module) -> aw.Supernet:
    return aw.Supernet(model, torch.randn(2, 3, 6, 6, dtype=torch.float64), nested=WIDTHS, divisor=4)


@pytest.fixture(scope="module")
def net() -> aw.Supernet:
    torch.manual_seed(0)
    net = nested(classifier())
    with torch.no_grad():
        net.model[-1].weight.mul_(20)  # so that confidences differ between samples and widths
    return net


@torch.no_grad()
@given(confidence=st.floats(0, 1), seed=st.integers(0, 99), batch=st.integers(1, 9))
def test_answers_are_those_of_the_first_confident_width(
    net: aw.Supernet, confidence: float, seed: int, batch: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = 3 * torch.randn(batch, 3, 6, 6, dtype=torch.float64, generator=generator)
    answers = net.progressive().exit_when(confidence=confidence)(x)
    every = torch.stack([net.subnet(width)(x) for width in WIDTHS])
    sure = torch.stack([class_confidence(logits) for logits in every])
    for sample, width in enumerate(answers.widths.tolist()):
        # What lies within rounding of the confidence may go either way.
        assert width == 3 or sure[width, sample] >= confidence - 1e-6
        assert all(sure[narrower, sample] < confidence + 1e-6 for narrower in range(width))
        torch.testing.assert_close(answers.outputs[sample], every[width, sample], rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_samples_leave_at_several_widths(net: aw.Supernet) -> None:
    torch.manual_seed(1)
    x = torch.randn(64, 3, 6, 6, dtype=torch.float64)
    brighter = x * torch.linspace(0.5, 6, 64, dtype=torch.float64)[:, None, None, None]
    assert len(net.progressive().exit_when(confidence=0.8)(brighter).widths.unique()) > 2
    for confidence, width in ((0.0, 0), (1.0, 3)):
        assert (net.progressive().exit_when(confidence=confidence)(x).widths == width).all()


@pytest.mark.parametrize("confidence", [-0.1, 1.5, float("nan"), True, "0.9"])
def test_what_is_not_a_probability_is_refused(net: aw.Supernet, confidence: float) -> None:
    with pytest.raises(SettingsError, match=r"is not a probability.*confidence=0\.9"):
        net.progressive().exit_when(confidence=confidence)


class Segmenter(nn.Module):
    """Logits of every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu())


class Paired(nn.Module):
    """Logits of the mean of several views of one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu().mean((2, 3)).unflatten(0, (-1, 2)).mean(1))


def test_outputs_that_are_not_logits_of_samples_are_refused() -> None:
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    with pytest.raises(LossError, match=r"shape \(batch, classes\).*runner\.refine"):
        nested(Segmenter().double().eval()).progressive().exit_when(confidence=0.9)(x)
    with pytest.raises(LossError, match=r"the output has 1 samples and the inputs have \(2, 3, 6, 6\)"):
        nested(Paired().double().eval()).progressive().exit_when(confidence=0.9)(x)
