"""Exported networks without zero blocks."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.core.errors import ExportError, WidthError
from anywidth.supernet import blocked
from built_once import built_once
from supernet.test_blocked import randomise


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> aw.Supernet:
    """A nested network with batch norms, small enough that only `SMALLEST` keeps its layers whole."""
    monkeypatch.setattr(aw.Supernet.blocked, "__kwdefaults__", {"smallest": 0})
    assert blocked.SMALLEST > 0
    return nested()


@built_once
def nested() -> aw.Supernet:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, bias=False), nn.BatchNorm2d(32),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Linear(32, 5),
    )  # fmt: skip
    randomise(model.eval())
    return aw.Supernet(model, torch.randn(2, 3, 8, 8), nested=(0.25, 0.5, 1.0))


def test_an_onnx_file_without_zero_blocks(net: aw.Supernet, tmp_path: Path) -> None:
    """Batch norms are folded into the parts, and the file holds the weights that are not zero."""
    plain = onnx.load(aw.export(net, 1.0, tmp_path / "plain.onnx").path)
    written = aw.export(net, 1.0, tmp_path / "blocked.onnx", blocked=True)
    model = onnx.load(written.path)
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Conv") == 1 + 3
    assert [node.op_type for node in plain.graph.node].count("Conv") == 2
    assert written.difference < 1e-5
    later = net.shells.nesting.later["3.weight"]
    zeros = sum(rows.size * columns.size for rows, columns in later.blocks) * 9
    sizes = [sum(t.raw_data.__len__() for t in each.graph.initializer) for each in (plain, model)]
    assert sizes[0] - sizes[1] >= 4 * zeros


def test_an_archive_without_zero_blocks(net: aw.Supernet, tmp_path: Path) -> None:
    path = aw.export(net, 0.5, tmp_path / "half.pt2", blocked=True).path
    x = torch.randn(5, 3, 8, 8)
    got = torch.export.load(path).module()(x)
    torch.testing.assert_close(got, net.extract(0.5)(x), rtol=1e-4, atol=1e-5)


def test_what_has_no_blocked_file_is_refused(net: aw.Supernet, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'torch' has no files without zero blocks; give format= one of onnx, pt2"):
        aw.export(net, 1.0, tmp_path / "full.safetensors", blocked=True)
    plain = aw.Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    with pytest.raises(WidthError, match="not nested"):
        aw.export(plain, 1.0, tmp_path / "full.pt2", blocked=True)
    assert not list(tmp_path.iterdir())
