"""`aw.export`: what is written computes what the subnet does, holds its weights once, and appears whole or not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.core.errors import ExportError, MissingExtraError, UncalibratedError, WidthError
from anywidth.export import Exported, load_dense, onnx_latency
from anywidth.export.onnx_model import onnx_model
from anywidth.export.program import dense_program
from anywidth.export.session import open_session
from anywidth.supernet import norm_modules
from proofs import assert_close, configs
from zoo import Case, Residual, TiedWeights, find


def weights_of(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


def run_file(path: Path, *arrays: np.ndarray) -> np.ndarray:
    session = open_session(path)
    return session.run(None, {item.name: a for item, a in zip(session.get_inputs(), arrays, strict=True)})[0]


@pytest.fixture(scope="module")
def half(net, tmp_path_factory) -> Exported:
    """A file of half the width, alone in its folder; do not change it."""
    return aw.export(net, 0.5, tmp_path_factory.mktemp("half") / "half.onnx")


def test_an_onnx_file_equals_the_subnet_at_any_batch(net, half):
    written = half
    for batch in (1, 2, 7):
        x = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            assert_close(torch.from_numpy(run_file(written.path, x.numpy())), net.extract(0.5).eval()(x), 1e-5)
    assert (written.format, written.widths) == ("onnx", ("0.5",))
    assert (written.macs, written.params) == ((aw.macs(net, 0.5),), (aw.params(net, 0.5),))
    assert written.size == written.path.stat().st_size
    assert 0 < written.difference < 1e-5
    assert [file.name for file in written.path.parent.iterdir()] == ["half.onnx"]


def test_an_onnx_file_holds_weights_under_their_names_and_nothing_of_the_source(net, half):
    path = half.path
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {t.name for t in model.graph.initializer} >= {"stem.0.weight", "a.0.weight", "b.0.weight", "head.weight"}
    assert weights_of(model) <= aw.params(net, 0.5)
    assert {node.op_type for node in model.graph.node}.isdisjoint({"BatchNormalization", "Dropout"})
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert str(Path.cwd()).encode() not in path.read_bytes()
    assert b"torch" not in path.read_bytes()


def test_tied_weights_are_written_once(tmp_path):
    net = aw.Supernet(TiedWeights().eval(), torch.randn(2, 12), divisor=2)
    model = onnx_model(dense_program(net, 0.5))
    large = [t for t in model.graph.initializer if len(t.raw_data) > 64]
    assert len({t.raw_data for t in large}) == len(large)


@pytest.mark.parametrize("name", ["residual", "tied weights", "two inputs", "shared inside"])
def test_archives_equal_the_subnet_at_any_config(name, supernet_of, tmp_path):
    case: Case = find(name)
    net: aw.Supernet = supernet_of(case)
    config = configs(net)[-1]
    share_statistics(net, [config])
    written = aw.export(net, config, tmp_path / "small.pt2")
    program = torch.export.load(written.path).module()
    dense = net.extract(config).eval().float()
    inputs = dense_program(net, config).inputs.map(lambda t: torch.randn(5, *t.shape[1:]))
    with torch.no_grad():
        assert_close(inputs.call(program), inputs.call(dense), 1e-5)


def test_double_precision_is_written_as_floats(supernet_of, tmp_path):
    case = find("1d")
    net: aw.Supernet = supernet_of(case)
    share_statistics(net, [0.5])
    x = torch.randn(4, 5, 12)
    got = run_file(aw.export(net, 0.5, tmp_path / "small.onnx").path, x.numpy())
    with torch.no_grad():
        assert_close(torch.from_numpy(got).double(), net.extract(0.5).eval()(x.double()), 1e-5)
    assert net.model.get_parameter(next(iter(dict(net.model.named_parameters())))).dtype == torch.float64


def test_every_switch_is_written_with_its_own_batch_norms(tmp_path):
    net = aw.Supernet(Residual(), torch.randn(2, 3, 8, 8), divisor=4, switches=(0.5, 1.0))
    with torch.no_grad():
        for parameter in net.switch_parameters():
            parameter.add_(torch.rand_like(parameter))
    x = torch.randn(3, 3, 8, 8)
    for width in net.switches:
        path = aw.export(net, width, tmp_path / f"{width}.pt2").path
        with torch.no_grad():
            assert_close(torch.export.load(path).module()(x), net.extract(width).eval()(x), 1e-5)
    with pytest.raises(WidthError, match="is not a switch"):
        aw.export(net, 0.75, tmp_path / "no.pt2")


def test_an_uncalibrated_width_is_an_error_that_names_those_which_are(net, tmp_path):
    for name in ("a.onnx", "a.pt2", "a.safetensors"):
        with pytest.raises(UncalibratedError, match=r"width 0.75 has no .*calibrated: 0.25, 0.5"):
            aw.export(net, 0.75, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_written_and_the_old_one_stays(net, tmp_path):
    for ending in ("onnx", "pt2", "safetensors"):
        path = tmp_path / f"half.{ending}"
        path.write_text("before")
        with pytest.raises(ExportError, match="differs from the network by"):
            aw.export(net, 0.5, path, tolerance=-1.0)
        assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 3


class Lengths(nn.Module):
    """Its forward asks Python for the length of the batch, which torch.export takes for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).view(len(x), 16 * x.shape[0] // len(x)))


def test_a_forward_for_one_batch_size_is_an_error_with_a_way_out(tmp_path):
    with pytest.warns(UserWarning, match="only .* of the MACs"):
        net = aw.Supernet(Lengths(), torch.randn(2, 4), divisor=4, frozen=("*",))
    with pytest.raises(ExportError, match=r"dynamic_batch=False"):
        aw.export(net, 1.0, tmp_path / "a.pt2")
    aw.export(net, 1.0, tmp_path / "a.pt2", dynamic_batch=False)


def test_the_format_comes_from_the_ending_or_is_asked_for(net, tmp_path):
    assert aw.export(net, 0.5, tmp_path / "a.bin", "torch").format == "torch"
    assert load_dense(tmp_path / "a.bin", Residual()).head.in_features == 8
    with pytest.raises(ExportError, match="'a.bin' matches no format"):
        aw.export(net, 0.5, tmp_path / "a.bin")
    with pytest.raises(ExportError, match="'tflite' is unknown; choose one of onnx, pt2, torch"):
        aw.export(net, 0.5, tmp_path / "a.onnx", "tflite")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(net, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    for call in (
        lambda: aw.export(net, 0.5, tmp_path / "a.onnx"),
        lambda: aw.export_ladder(net, [0.5, 1.0], tmp_path / "a.onnx"),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'anywidth\[onnx\]'"):
            call()
    aw.export(net, 0.5, tmp_path / "a.safetensors")


def test_latency_is_that_of_the_runtime(net):
    assert 0 < onnx_latency(net, 0.5, repeats=3, threads=1) < 1000


def test_a_session_says_what_is_wrong_with_a_file(tmp_path):
    path = tmp_path / "a.onnx"
    with pytest.raises(ExportError, match=r"cannot open .*a.onnx"):
        open_session(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ExportError, match=r"cannot open .*a.onnx"):
        open_session(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [("torchvision/resnet18", 32), ("torchvision/mobilenet_v2", 32), ("mobilenet_v1", 32),
     ("timm/vit_tiny_patch16_224", 224)],
)  # fmt: skip
def test_files_of_known_models_are_as_large_as_their_parameters(name, size, tmp_path):
    from anywidth.models import build_model

    model = build_model(name, num_classes=10, input_shape=(3, size, size)).eval()
    net = aw.Supernet(model, torch.randn(1, 3, size, size))
    share_statistics(net, [0.5])
    written = aw.export(net, 0.5, tmp_path / "half.onnx")
    # A folded batch norm leaves a bias behind, of its weight and bias.
    folded = sum(norm.num_features for norm in norm_modules(net.subnet(0.5)).values())
    assert abs(written.size / (4 * (aw.params(net, 0.5) - folded)) - 1) < 0.02
