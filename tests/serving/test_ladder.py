"""Several widths side by side: from a file, and on one copy of a supernet's weights."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.core.errors import CheckpointError, ExportError, UncalibratedError, WidthError
from anywidth.serving import Ladder
from proofs import assert_close
from zoo import Residual, TwoInputs

WIDTHS = (0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def net() -> aw.Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = aw.Supernet(Residual().eval(), torch.randn(1, 3, 8, 8), divisor=4)
    share_statistics(net, WIDTHS)
    return net


@pytest.fixture(scope="module")
def file(net: aw.Supernet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aw.export_ladder(net, WIDTHS, tmp_path_factory.mktemp("serving") / "ladder.onnx").path


@pytest.fixture(params=["onnx", "torch", "folder"])
def ladder(request: pytest.FixtureRequest, net: aw.Supernet, file: Path, tmp_path: Path) -> Ladder:
    if request.param == "torch":
        return Ladder.share(net, WIDTHS)
    return Ladder.load(file) if request.param == "onnx" else Ladder.load(net.save(tmp_path), model=Residual())


def test_every_width_answers_as_the_subnet(ladder, net):
    x = torch.randn(3, 3, 8, 8)
    assert ladder.widths == WIDTHS
    for width in (1.0, 0.25, 0.5, 0.25):
        (got,) = ladder.run([x.numpy()], width=width)
        with torch.no_grad():
            assert_close(torch.from_numpy(got), net.extract(width).eval()(x), 1e-5)


def test_inputs_and_outputs_are_described(ladder):
    (taken,), (given,) = ladder.inputs, ladder.outputs
    assert (taken.shape, taken.dtype) == ((None, 3, 8, 8), np.float32)
    assert (given.name, given.shape, given.dtype) == ("output", (None, 4), np.float32)


def test_a_width_that_is_not_loaded_is_an_error(ladder):
    with pytest.raises(WidthError, match=r"width 0.75 is not loaded; ready are 0.25, 0.5, 1"):
        ladder.run([np.zeros((1, 3, 8, 8), np.float32)], width=0.75)


def test_threads_run_different_widths_at_once(ladder):
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    wanted = {width: ladder.run([x], width=width)[0] for width in WIDTHS}
    wrong: list[float] = []

    def work(width: float) -> None:
        for _ in range(20):
            if not np.allclose(ladder.run([x], width=width)[0], wanted[width], atol=1e-6):
                wrong.append(width)

    threads = [threading.Thread(target=work, args=(width,)) for width in WIDTHS * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_gives_the_widths_that_are_asked_for(file):
    assert Ladder.load(file, [0.5]).widths == (0.5,)
    with pytest.raises(WidthError, match=r"has no width 0.75; it has 0.25, 0.5, 1"):
        Ladder.load(file, [0.5, 0.75])
    with pytest.raises(WidthError, match="at least one width"):
        Ladder.load(file, [])


def test_a_folder_gives_any_width_that_is_calibrated(net, tmp_path):
    folder = net.save(tmp_path / "run")
    assert Ladder.load(folder, [0.5], model=Residual()).widths == (0.5,)
    with pytest.raises(UncalibratedError, match=r"width 0.75 has no"):
        Ladder.load(folder, [0.5, 0.75], model=Residual())
    with pytest.raises(CheckpointError, match=r"how to build its Residual.*anywidth.load\(folder, model\)"):
        Ladder.load(folder)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        Ladder.load(tmp_path)


def test_a_folder_without_batch_norms_needs_widths(tmp_path):
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))
    model = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2))
    folder = net.save(tmp_path)
    with pytest.raises(WidthError, match="any width; give widths="):
        Ladder.load(folder, model=model)
    assert Ladder.load(folder, [0.3, 0.4], model=model).widths == (0.3, 0.4)


def test_wrong_files_are_errors(file, net, tmp_path):
    with pytest.raises(ExportError, match="there is no file"):
        Ladder.load(tmp_path / "no.onnx")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ExportError, match="is damaged or not an ONNX file|has only one width"):
        Ladder.load(damaged)
    dense = aw.export(net, 0.5, tmp_path / "half.onnx").path
    with pytest.raises(ExportError, match="has only one width"):
        Ladder.load(dense)


def test_shared_widths_take_one_copy_of_the_weights(net):
    ladder = Ladder.share(net, WIDTHS)
    own = {p.untyped_storage().data_ptr() for p in net.model.parameters()}
    for width in ladder.widths:
        assert {p.untyped_storage().data_ptr() for p in net.subnet(width).parameters()} <= own
    with torch.no_grad():
        net.model.head.bias.zero_()
        zero = ladder.run([np.zeros((1, 3, 8, 8), np.float32)], width=1.0)[0]
        net.model.head.bias.fill_(5.0)
        assert np.allclose(ladder.run([np.zeros((1, 3, 8, 8), np.float32)], width=1.0)[0], zero + 5, atol=1e-5)


def test_an_uncalibrated_width_is_an_error_at_once():
    net = aw.Supernet(Residual(), torch.randn(2, 3, 8, 8), divisor=4)
    with pytest.raises(UncalibratedError, match="width 0.5 has no"):
        Ladder.share(net, [0.5, 1.0])


def test_several_inputs_have_names_and_keywords_are_an_error():
    inputs = (torch.randn(2, 3, 8, 8), torch.randn(2, 6))
    net = aw.Supernet(TwoInputs().eval(), inputs, divisor=2)
    share_statistics(net, [0.5])
    ladder = Ladder.share(net, [0.5])
    assert [spec.name for spec in ladder.inputs] == ["input_0", "input_1"]
    assert ladder.run([tensor.numpy() for tensor in inputs], width=0.5)[0].shape[0] == 2

    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    with pytest.raises(ExportError, match="positional tensors"):
        Ladder.share(aw.Supernet(Keyword(), {"x": torch.randn(1, 4)}), [1.0])
