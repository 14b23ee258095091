"""8-bit files: a quarter of the size, calibrated on images, nearly the same answers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.core.errors import DataError
from anywidth.data import load_data, make_loaders
from anywidth.export import evaluate_onnx, export_int8
from anywidth.models import MobileNetV2


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


@pytest.mark.slow
def test_a_trained_network_with_batch_norms_loses_little(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        loaders = make_loaders(load_data("digits"), batch_size=64)
        model = MobileNetV2(width=0.5, num_classes=10, in_channels=1, downsamplings=1)
        net = aw.Supernet(model.train(), torch.randn(2, 1, 8, 8))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=8 * len(loaders.train))
        for _ in range(8):
            for images, labels in loaders.train:
                optimizer.zero_grad()
                aw.sandwich_step(net, images, labels, widths=[1.0, 0.5])
                optimizer.step()
                schedule.step()
    aw.calibrate(net, loaders.calibration, widths=[0.5, 1.0])
    for width in (0.5, 1.0):
        plain = aw.export(net, width, tmp_path / "plain.onnx")
        small = export_int8(net, width, tmp_path / "small.onnx", loaders.calibration)
        exact, rounded = (evaluate_onnx(file.path, loaders.test) for file in (plain, small))
        print(f"width {width}: {exact:.2f} % at {plain.size:,} bytes, in 8 bits {rounded:.2f} % at {small.size:,}")
        assert exact > 40  # chance is 10; a network that has learned nothing would lose nothing
        assert rounded > exact - 3
        assert small.size < 0.6 * plain.size


def test_no_images_are_an_error(wide, tmp_path):
    with pytest.raises(DataError, match="loader is empty"):
        export_int8(wide, 0.5, tmp_path / "small.onnx", [])
    assert not list(tmp_path.iterdir())
