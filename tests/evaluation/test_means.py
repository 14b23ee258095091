"""Means over a dataset: one weight per sample, in one process or several."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from anywidth.core.errors import DataError
from anywidth.core.inputs import Inputs
from anywidth.evaluation.means import mean_score, means

INPUTS = Inputs(args=(torch.zeros(1, 2),), kwargs={})


def measure(_: Inputs, targets: Any, output: Any) -> tuple[list[float], int]:
    return [sum(output), sum(targets)], len(output)


def test_every_sample_has_the_same_weight() -> None:
    batches = [(INPUTS, [1.0], [8.0]), (INPUTS, [2.0, 2.0, 3.0], [0.0, 0.0, 4.0])]
    assert means(batches, measure) == [3.0, 2.0]


def test_batches_without_samples_do_not_count() -> None:
    assert means([(INPUTS, [], []), (INPUTS, [1.0], [8.0])], measure) == [8.0, 1.0]


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("batches", [[], [(INPUTS, [], [])]])
def test_no_samples_have_no_mean(batches: list[Any], pooled: bool) -> None:
    with pytest.raises(DataError, match="give at least one batch"):
        means(batches, measure, pooled=pooled)


def test_processes_combine_their_sums_if_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    # The other process has three samples, the third none at all.
    monkeypatch.setattr("anywidth.evaluation.means.all_gather", lambda own: [own, ([2.0, 6.0], 3), ([], 0)])
    batches = [(INPUTS, [2.0], [10.0])]
    assert means(batches, measure) == [3.0, 2.0]
    assert means(batches, measure, pooled=False) == [10.0, 2.0]


def test_a_score_per_sample_is_averaged() -> None:
    inputs = Inputs(args=(torch.zeros(3, 2),), kwargs={})
    batches = [(inputs, torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))]
    assert mean_score(batches, lambda output, targets: output - targets) == -2.0
