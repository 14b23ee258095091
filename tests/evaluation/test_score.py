"""Scores that do not fit are refused instead of turned into a number."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import LossError
from anywidth.evaluation import score_samples, top1
from anywidth.search import SearchSettings

LONG = torch.tensor([0, 1, 2, 0])
UNFIT = [
    (torch.randn(4, 64, 64), torch.zeros(4, 64).long(), r"output.logits.argmax\(-1\)"),
    (torch.randn(4, 3, 5, 5), torch.zeros(4, 5, 5).long(), r"output.argmax\(1\) == target"),
    (torch.randn(4, 1), torch.zeros(4).long(), "at least two classes"),
    (torch.randn(4, 3), torch.rand(4, 3), "square"),
    (torch.randn(4, 3), LONG[:, None], r"int64 of shape \(4, 1\)"),
    (torch.randn(4, 3), LONG.float(), r"float32 of shape \(4,\)"),
    (torch.randn(4, 3), LONG[:3], r"int64 of shape \(3,\)"),
    (torch.randn(4), LONG, r"float32 of shape \(4,\)"),
    (torch.randn(4, 3), None, "NoneType"),
    (torch.randn(4, 3), torch.tensor([0, 3, 0, 0]), "class 3, but the output has 3 classes, numbered 0 to 2"),
    (torch.randn(4, 3), torch.tensor([0, -100, 0, 0]), "class -100, but the output has 3"),
]


@pytest.mark.parametrize(("output", "target", "message"), UNFIT)
def test_top1_is_for_classes_alone(output: Tensor, target: Any, message: str) -> None:
    for one in (output, SimpleNamespace(logits=output)):
        with pytest.raises(LossError, match=message) as caught:
            top1(one, target)
        assert "give score=" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_top1_by_hand(dtype: torch.dtype) -> None:
    output = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0], [0.0, 0.0, 1.0]])
    assert top1(output, torch.tensor([0, 1, 2], dtype=dtype)).tolist() == [100, 0, 100]
    assert top1(output[:0], torch.zeros(0, dtype=dtype)).shape == (0,)


SCORES = [
    (lambda output, target: F.cross_entropy(output, target), r"returned float32 of shape \(\) for 4 samples"),
    (lambda output, target: 1.0, "returned float for 4 samples"),
    (lambda output, target: output, r"returned float32 of shape \(4, 3\) for 4 samples"),
    (lambda output, target: output.argmax(1)[:2], r"returned int64 of shape \(2,\) for 4 samples"),
    (lambda output, target: output[:, 0] / 0, "for 4 of 4 samples"),
    (lambda output, target: torch.where(target == 1, float("nan"), output[:, 0]), "is nan for 1 of 4 samples"),
]


@pytest.mark.parametrize(("score", "message"), SCORES)
def test_a_score_is_one_finite_number_per_sample(score: Any, message: str) -> None:
    net = aw.Supernet(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(1, 6))
    data = [(torch.randn(4, 6), LONG)]
    for call in (
        lambda: aw.evaluate(net, data, 0.5, score=score),
        lambda: aw.spectrum(net, data, [0.5], score=score),
        lambda: aw.autoslim(net, data, "60%", held_out=data, score=score, settings=SearchSettings(memory=0)),
    ):
        with pytest.raises(LossError, match=message):
            call()


def test_scores_by_hand() -> None:
    output = torch.tensor([[1.0, 3.0], [0.5, 0.0]])
    for score, wanted in (
        (lambda output, target: (output - target).square().mean(1), (4.0 + 0.125 / 1, 2)),
        (lambda output, target: output[:, 0] > 0.7, (1.0, 2)),
        (lambda output, target: output[:, 1].int(), (3.0, 2)),
    ):
        target = torch.tensor([[-1.0, 1.0], [0.0, 0.0]])
        assert score_samples(score, output, target, samples=2) == wanted


def test_the_batch_need_not_be_the_first_dimension_of_the_inputs() -> None:
    """As in a recurrent network, whose inputs are (time, batch, channels)."""
    assert score_samples(top1, torch.eye(3)[:2], torch.tensor([0, 0]), samples=7) == (100.0, 2)


def test_a_network_of_nan_is_not_scored() -> None:
    net = aw.Supernet(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)), torch.randn(1, 6))
    with torch.no_grad():
        net.model[2].weight.fill_(float("nan"))
    with pytest.raises(LossError, match="NaN"):
        aw.evaluate(net, [(torch.randn(4, 6), LONG)])
