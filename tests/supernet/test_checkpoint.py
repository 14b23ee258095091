"""Checkpoints: written wholly or not at all, and refused with a reason."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import anywidth as aw
from anywidth.errors import CheckpointError


def model(channels: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(), nn.Flatten(), nn.Linear(36 * channels, 4)
    )


X, Y = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(2)), torch.arange(64) % 4


@pytest.fixture
def net() -> aw.Supernet:
    net = aw.Supernet(model(), torch.randn(2, 1, 8, 8), frozen=("4",), min_width=0.5)
    aw.calibrate(net, [X], [0.5, {"0": 0.5}, 1.0])
    return net


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_process_finds_the_same_accuracy(net: aw.Supernet, tmp_path: Path) -> None:
    net.save(tmp_path)
    torch.save((X, Y), tmp_path / "data.pt")
    code = f"""
import sys, torch; sys.path.insert(0, {str(Path(__file__).parent)!r})
import anywidth as aw
from test_checkpoint import model
net = aw.load({str(tmp_path)!r}, model())
x, y = torch.load({str(tmp_path / "data.pt")!r})
print([aw.evaluate(net, [(x, y)], w) for w in (0.5, 1.0)], net.min_width, net.frozen)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    wanted = [aw.evaluate(net, [(X, Y)], w) for w in (0.5, 1.0)]
    assert done.stdout.strip() == f"{wanted} 0.5 ('4',)", done.stderr


def test_everything_comes_back(net: aw.Supernet, tmp_path: Path) -> None:
    net.save(tmp_path)
    assert files(tmp_path) == ["supernet.json", "supernet.safetensors"]
    back = aw.load(tmp_path, model())
    assert back.groups == net.groups
    for name, tensor in net.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], tensor)
    for width in (0.5, {"0": 0.5}):
        assert torch.equal(back.subnet(width).eval()(X), net.subnet(width).eval()(X))
    described = json.loads((tmp_path / "supernet.json").read_text())
    assert described["min_width"] == 0.5


def damage(path: Path, how: str) -> None:
    tensors = path / "supernet.safetensors"
    content = tensors.read_bytes()
    if how == "missing":
        tensors.unlink()
    elif how == "truncated":
        tensors.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        tensors.write_bytes(b"")
    elif how == "foreign":
        save_file({"weight": torch.zeros(2)}, tensors)
    elif how == "not safetensors":
        tensors.write_bytes(b"PK\x03\x04" + bytes(100))
    elif how == "json":
        (path / "supernet.json").write_text("{")


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "foreign", "not safetensors", "json"])
def test_a_damaged_checkpoint_is_refused_and_the_model_untouched(net: aw.Supernet, tmp_path: Path, how: str) -> None:
    net.save(tmp_path)
    damage(tmp_path, how)
    target = model()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        aw.load(tmp_path, target)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_another_model_is_refused(net: aw.Supernet, tmp_path: Path) -> None:
    net.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"another model.*0\.weight has shape \(16, .* and \(24, "):
        aw.load(tmp_path, model(24))
    with pytest.raises(CheckpointError, match="is not in the"):
        aw.load(tmp_path, nn.Linear(3, 3))


def test_a_full_disk_leaves_the_old_checkpoint(
    net: aw.Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net.save(tmp_path)
    old = (tmp_path / "supernet.safetensors").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    with torch.no_grad():
        net.model.get_parameter("0.weight").add_(1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device; what was there before is unchanged"):
            net.save(tmp_path)
    assert (tmp_path / "supernet.safetensors").read_bytes() == old
    assert files(tmp_path) == ["supernet.json", "supernet.safetensors"]
    aw.load(tmp_path, model())


def test_a_file_in_the_place_of_the_folder(net: aw.Supernet, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("here already")
    with pytest.raises(CheckpointError, match="could not write"):
        net.save(tmp_path / "run")
    assert (tmp_path / "run").read_text() == "here already"


class Tied(nn.Module):
    """An encoder and a decoder on one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 16), nn.Linear(6, 16)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.encode(x)) @ self.decode.weight


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    net = aw.Supernet(Tied(), torch.randn(2, 6))
    net.save(tmp_path)
    back = aw.load(tmp_path, Tied())
    assert back.model.get_parameter("encode.weight") is back.model.get_submodule("decode").weight
    assert torch.equal(back.model.get_parameter("encode.weight"), net.model.get_parameter("encode.weight"))
    sub = net.subnet(0.5)
    assert sub.get_parameter("encode.weight") is sub.get_submodule("decode").weight
