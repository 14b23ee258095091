"""A small calibrated supernet, and a ladder file of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.export import Exported, export_ladder
from zoo import Residual

LADDER = (0.25, 0.5, 1.0)


def small_net() -> aw.Supernet:
    """Convolutions with batch norms and a residual sum, some kilobytes, calibrated at three widths."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Residual().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
        net = aw.Supernet(model, torch.randn(1, 3, 8, 8), divisor=4)
    share_statistics(net, LADDER)
    return net


@pytest.fixture(scope="session")
def net() -> aw.Supernet:
    """Do not change it."""
    return small_net()


@pytest.fixture(scope="session")
def ladder(net: aw.Supernet, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A written ladder; do not change the file."""
    return export_ladder(net, LADDER, tmp_path_factory.mktemp("ladder") / "ladder.onnx")
