"""A model that does not give what a classifier must give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anywidth.core.errors import ModelError
from anywidth.models.fit import check_fit


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


def test_wrong_number_of_logits() -> None:
    with pytest.raises(ModelError, match=r"flat returns \(1, 12\) for one image"):
        check_fit(nn.Flatten(), name="flat", num_classes=10, input_shape=(3, 2, 2))


def test_output_that_is_no_tensor() -> None:
    with pytest.raises(ModelError, match="pair returns tuple"):
        check_fit(Pair(), name="pair", num_classes=10, input_shape=(3, 2, 2))


def test_flags_and_statistics_are_put_back() -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(norm, nn.Conv2d(3, 2, 5), nn.BatchNorm2d(2).eval())
    with pytest.raises(ModelError, match="net does not run on images"):
        check_fit(model, name="net", num_classes=2, input_shape=(3, 2, 2))
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 0
