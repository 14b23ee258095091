"""The `torch` format: a narrow network for the model's own class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.core.errors import CheckpointError
from anywidth.export import load_dense
from anywidth.export.torch_file import save_dense
from proofs import assert_close, call, configs
from zoo import Case, Residual, cases


@pytest.mark.parametrize("case", cases(few=True))
def test_every_model_comes_back_as_it_was_extracted(case: Case, supernet_of, tmp_path):
    net: aw.Supernet = supernet_of(case)
    for number, config in enumerate(configs(net, random=1)):
        share_statistics(net, [config])
        dense = net.extract(config).eval()
        path = tmp_path / f"{number}.safetensors"
        save_dense(dense, net.model, path)
        again = load_dense(path, case.model()).eval()
        assert type(again) is type(dense)
        assert_close(call(again, case.example(1)), call(dense, case.example(1)), 1e-12)
        assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in dense.named_parameters()}


def test_what_is_loaded_can_be_trained(tmp_path):
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    aw.export(net, 0.5, tmp_path / "half.safetensors")
    dense = load_dense(tmp_path / "half.safetensors", nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)))
    dense(torch.randn(3, 4)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in dense.parameters())


def write(path: Path) -> Path:
    net = aw.Supernet(Residual(), torch.randn(2, 3, 8, 8))
    share_statistics(net, [0.5])
    return aw.export(net, 0.5, path).path


def test_wrong_files_are_errors_and_leave_the_model(tmp_path):
    model = Residual()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    good = write(tmp_path / "good.safetensors")
    damaged, foreign = tmp_path / "damaged.safetensors", tmp_path / "foreign.safetensors"
    damaged.write_bytes(good.read_bytes()[:500])
    save_file({"weight": torch.zeros(2)}, foreign)
    for path, message in ((tmp_path / "no", "does not exist"), (damaged, "is damaged"), (foreign, "was not written")):
        with pytest.raises(CheckpointError, match=message):
            load_dense(path, model)
    with pytest.raises(CheckpointError, match=r"to another model \(written from Residual, loaded into Sequential\)"):
        load_dense(good, nn.Sequential(nn.Linear(3, 4)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
