"""One ONNX file with several widths: the right branch runs, the weights are stored once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import ExportError, UncalibratedError, WidthError
from anywidth.export import evaluate_onnx
from anywidth.export.session import open_session
from proofs import assert_close


def run(path: Path, x: Tensor, width: float) -> Tensor:
    session = open_session(path)
    return torch.from_numpy(session.run(None, {"x": x.numpy(), "width": np.array([width], dtype=np.float32)})[0])


@pytest.mark.parametrize(
    ("asked", "runs"),
    [
        (0.25, 0.25),
        (0.5, 0.5),
        (1.0, 1.0),
        (0.49, 0.25),
        (0.51, 0.5),
        (0.999, 0.5),
        (0.01, 0.25),
        (7.0, 1.0),
        (0.499999, 0.25),
    ],
)
def test_the_widest_width_that_is_not_above_the_asked_one_runs(net, ladder, asked, runs):
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            assert_close(run(ladder.path, x, asked), net.extract(runs).eval()(x), 1e-5)


def test_a_file_is_plain_onnx_that_says_what_it_has(ladder, net):
    model = onnx.load(ladder.path)
    onnx.checker.check_model(model, full_check=True)
    assert json.loads({e.key: e.value for e in model.metadata_props}["anywidth.widths"]) == [0.25, 0.5, 1.0]
    assert {entry.domain for entry in model.opset_import} <= {"", "ai.onnx"}
    assert [value.name for value in model.graph.input] == ["x", "width"]
    assert ladder.widths == ("0.25", "0.5", "1")
    assert ladder.macs == tuple(aw.macs(net, width) for width in (0.25, 0.5, 1.0))


def test_weights_are_stored_once(ladder, net):
    model = onnx.load(ladder.path)
    names = {tensor.name: tensor for tensor in model.graph.initializer}
    matrices = {n: p for n, p in net.model.named_parameters() if p.ndim > 1 and p.numel() * 4 > 1024}
    for name, parameter in matrices.items():
        stored = onnx.numpy_helper.to_array(names[name])
        assert np.array_equal(stored, parameter.detach().numpy()), name
    # Two vectors per batch norm and width (scale and bias), what is too small to share, and the nodes.
    assert model.ByteSize() < 1.3 * 4 * sum(p.numel() for p in matrices.values())


def test_a_branch_is_handed_no_weights_when_it_runs(ladder):
    model = onnx.load(ladder.path)
    outside = {tensor.name for tensor in model.graph.initializer}
    leaves = [graph for graph in graphs(model.graph) if graph.name.startswith("width_")]
    assert len(leaves) == 3
    for leaf in leaves:
        constant = outside | {tensor.name for tensor in leaf.initializer}
        for node in leaf.node:
            if constant.issuperset(node.input):
                constant.update(node.output)  # computed once, when the file is opened
            else:
                assert not outside.intersection(node.input), node


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


class Preactivated(nn.Module):
    """Norms before layers, which cannot fold, a concatenation, and a flattened map read by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.more = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm, self.head = nn.BatchNorm2d(32), nn.Linear(32 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.norm(torch.cat([x, self.more(torch.relu(x))], 1)))
        return self.head(x.flatten(1))


def test_switches_and_channels_that_are_no_leading_block(tmp_path):
    net = aw.Supernet(Preactivated(), torch.randn(2, 3, 4, 4), divisor=4, switches=(0.5, 1.0))
    with torch.no_grad():
        for parameter in net.switch_parameters():
            parameter.add_(torch.rand_like(parameter))
    written = aw.export_ladder(net, net.switches, tmp_path / "ladder.onnx")
    x = torch.randn(3, 3, 4, 4)
    for width in net.switches:
        with torch.no_grad():
            assert_close(run(written.path, x, width), net.extract(width).eval()(x), 1e-5)
    stored = {t.name for t in onnx.load(written.path).graph.initializer}
    assert {"more.weight", "head.weight"} <= stored


def test_wrong_widths_are_errors(net, tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(WidthError, match="at least two widths"):
        aw.export_ladder(net, [0.5, 0.5], path)
    with pytest.raises(WidthError, match=r"0.5 and 0.501 are the same network"):
        aw.export_ladder(net, [0.5, 0.501], path)
    with pytest.raises(WidthError, match="outside"):
        aw.export_ladder(net, [0.01, 0.5], path)
    with pytest.raises(UncalibratedError, match=r"0.75 has no .*calibrated: 0.25, 0.5"):
        aw.export_ladder(net, [0.75, 1.0], path)
    assert not list(tmp_path.iterdir())


def test_widths_that_the_input_cannot_tell_apart_are_an_error(tmp_path):
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 256), nn.Linear(256, 2)), torch.randn(1, 4))
    assert net.config(0.515625 - 1e-10) != net.config(0.515625)
    with pytest.raises(WidthError, match=r"0.5156249999 and 0.515625 are the same 32-bit number"):
        aw.export_ladder(net, [0.515625 - 1e-10, 0.515625], tmp_path / "a.onnx")


class NamesItsInputWidth(nn.Module):
    """Its input is called as the ladder's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, width: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(width)))


def test_an_input_called_width_is_an_error(tmp_path):
    net = aw.Supernet(NamesItsInputWidth(), torch.randn(1, 4))
    with pytest.raises(ExportError, match="has an input called 'width'"):
        aw.export_ladder(net, [0.5, 1.0], tmp_path / "a.onnx")


def test_accuracy_is_measured_at_a_width(ladder, net):
    x = torch.randn(40, 3, 8, 8)
    with torch.no_grad():
        labels = net.extract(0.25).eval()(x).argmax(1)
    loader = [(x[:30], labels[:30]), (x[30:], labels[30:])]
    assert evaluate_onnx(ladder.path, loader, width=0.25) == 100
    assert evaluate_onnx(ladder.path, loader, width=1.0) == pytest.approx(aw.evaluate(net, loader, 1.0))
