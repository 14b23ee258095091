"""8-bit files: a quarter of the size, calibrated on images, nearly the same answers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.errors import DataError
from anywidth.export import evaluate_onnx, export_int8


@pytest.fixture(scope="module")
def wide() -> aw.Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 4)
        )
        return aw.Supernet(model.eval(), torch.randn(1, 3, 8, 8))


def test_a_file_of_integers_is_small_and_answers_alike(wide, tmp_path):
    x = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        labels = wide.extract(0.5).eval()(x).argmax(1)
    written = export_int8(wide, 0.5, tmp_path / "small.onnx", [(x[:32], labels[:32]), (x[32:], labels[32:])])
    assert written.size < 0.5 * 4 * aw.params(wide, 0.5)
    kinds = {t.data_type for t in onnx.load(written.path).graph.initializer if np.prod(t.dims) > 512}
    assert kinds == {onnx.TensorProto.INT8}
    assert evaluate_onnx(written.path, [(x, labels)]) > 85
    assert [file.name for file in tmp_path.iterdir()] == ["small.onnx"]


def test_no_images_are_an_error(wide, tmp_path):
    with pytest.raises(DataError, match="gave no data"):
        export_int8(wide, 0.5, tmp_path / "small.onnx", [])
    assert not list(tmp_path.iterdir())
