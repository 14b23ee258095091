"""Checkpoints: what is saved comes back, and what is damaged is refused without harm."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import anywidth as aw
from anywidth.errors import CheckpointError, UncalibratedError
from anywidth.groups import analyse
from anywidth.models import build_model
from anywidth.supernet.checkpoint import write_atomically
from proofs import assert_close, call, configs
from zoo import Case, cases, find

SupernetOf = Callable[[Case], aw.Supernet]
TENSORS, SETTINGS = "supernet.safetensors", "supernet.json"


def load(folder: Path, case: Case) -> aw.Supernet:
    with warnings.catch_warnings():
        if case.warns:
            warnings.filterwarnings("ignore", message="only .* of the MACs")
        return aw.load(folder, blank(case))


def blank(case: Case) -> nn.Module:
    model = case.model()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    return model


@pytest.fixture
def saved(supernet_of: SupernetOf, tmp_path: Path) -> Path:
    """A checkpoint of the residual network with two calibrated widths."""
    case = find("residual")
    net = supernet_of(case)
    aw.calibrate(net, [case.example(1)], widths=[0.25, 0.5])
    return net.save(tmp_path / "run")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- what comes back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases())
def test_everything_comes_back(case: Case, supernet_of: SupernetOf, tmp_path: Path) -> None:
    net, x = supernet_of(case), case.example(1)
    chosen = [net.config(0.5), *configs(net)]
    aw.calibrate(net, [(x, None)], widths=chosen)
    assert net.save(tmp_path / "run") == tmp_path / "run"
    assert sorted(files(tmp_path / "run")) == [SETTINGS, TENSORS]
    other = load(tmp_path / "run", case)
    assert other.groups == net.groups
    assert (other.divisor, other.min_width, other.frozen) == (net.divisor, net.min_width, net.frozen)
    for name, tensor in net.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], tensor)
    for config in chosen:
        with torch.no_grad():
            ours, theirs = call(net.subnet(config).eval(), x), call(other.subnet(config).eval(), x)
            assert_close(theirs, ours, 1e-12)


def test_settings_of_the_user_come_back(tmp_path: Path) -> None:
    case = find("residual")
    net = aw.Supernet(
        case.model(), case.example(), divisor=3, min_width=0.4, frozen=["stem*"], ratios={"a.0": 2}
    )  # fmt: skip
    other = aw.load(net.save(tmp_path), blank(case))
    assert (other.divisor, other.min_width, other.frozen, other.ratios) == (3, 0.4, ("stem*",), {"a.0": 2})
    assert other.groups == net.groups
    assert other.config(0.5) == net.config(0.5)


def test_what_only_the_proof_knows_comes_back(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 16, dtype=torch.float64)
    net = aw.Supernet(TakenAsEqual().double(), x, divisor=2)
    assert net.groups != analyse(net.model, x, proof=False).groups
    other = aw.load(net.save(tmp_path), TakenAsEqual().double())
    assert other.groups == net.groups
    assert_close(other.subnet(0.5)(x), net.subnet(0.5)(x))


class TakenAsEqual(nn.Module):
    """Its forward takes the inner channels to be as many as those that come in."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.out = nn.Linear(16, 16), nn.Linear(16, 12)

        def forward(self, x: Tensor) -> Tensor:
            batch, tokens, channels = x.shape
            return self.out(self.query(x).reshape(batch * tokens, channels).tanh()).view(batch, tokens, -1)

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.head = nn.Linear(16, 16), self.Inner(), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(torch.relu(self.enter(x))).relu())


def test_statistics_from_before_a_change_are_not_saved(supernet_of: SupernetOf, tmp_path: Path) -> None:
    case = find("residual")
    net, x = supernet_of(case), case.example()
    aw.calibrate(net, [x], widths=[0.25])
    with torch.no_grad():
        net.model.head.bias.add_(1)
    aw.calibrate(net, [x], widths=[0.5])
    other = load(net.save(tmp_path), case)
    other.subnet(0.5).eval()(x)
    with pytest.raises(UncalibratedError, match=r"width 0.25 has no .*calibrated: 0.5"):
        other.subnet(0.25).eval()(x)


def test_accuracy_is_the_same_in_a_new_process(tmp_path: Path) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(200, 3, 8, 8), torch.randint(4, (200,))
    case = find("concat")
    net = aw.Supernet(case.model().float(), x[:2], divisor=2)
    optimizer = torch.optim.AdamW(net.model.parameters(), 1e-2)
    net.model.train()
    for start in range(0, 200, 50):
        optimizer.zero_grad()
        aw.sandwich_step(net, x[start : start + 50], y[start : start + 50], widths=3)
        optimizer.step()
    widths = [0.25, 0.5, 0.8, 1.0]
    aw.calibrate(net, x.split(64), widths=widths)
    batches = list(zip(x.split(30), y.split(30), strict=True))
    wanted = [aw.evaluate(net, batches, width) for width in widths]
    outputs = [net.extract(width).eval()(x) for width in widths]
    net.save(tmp_path / "run")
    save_file({"x": x, "y": y}, tmp_path / "data.safetensors")
    (tmp_path / "script.py").write_text(
        "import sys, json, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from zoo import find\n"
        "from safetensors.torch import load_file, save_file\n"
        "import anywidth as aw\n"
        "torch.set_num_threads(1)\n"
        "data = load_file('data.safetensors')\n"
        "net = aw.load('run', find('concat').model().float())\n"
        "batches = list(zip(data['x'].split(30), data['y'].split(30)))\n"
        f"widths = {widths}\n"
        "print(json.dumps([aw.evaluate(net, batches, width) for width in widths]))\n"
        "save_file({str(w): net.extract(w).eval()(data['x']).detach() for w in widths}, 'out.safetensors')\n"
    )
    printed = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(printed) == wanted
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        for width, output in zip(widths, outputs, strict=True):
            assert torch.equal(file.get_tensor(str(width)).argmax(1), output.argmax(1))
            assert_close(file.get_tensor(str(width)), output, 1e-6)


def test_files_are_safetensors_and_json(saved: Path) -> None:
    with safe_open(saved / TENSORS, "pt") as file:
        names = list(file.keys())
        metadata = file.metadata()
    assert "model/stem.0.weight" in names
    assert sum(name.startswith("statistics/") for name in names) == 2 * 6
    assert json.loads(metadata["anywidth"]) == json.loads((saved / SETTINGS).read_text())


# -- faults ------------------------------------------------------------------------------------------------


def refused(folder: Path, message: str, case: Case | None = None) -> None:
    """Loading raises an error with this message, and the model stays as it was."""
    model = blank(case or find("residual"))
    with pytest.raises(CheckpointError, match=message):
        aw.load(folder, model)
    assert not any(tensor.any() for tensor in model.state_dict().values())


def test_missing_checkpoint(tmp_path: Path) -> None:
    refused(tmp_path, "no checkpoint at")
    refused(tmp_path / "nowhere", "no checkpoint at")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", "no checkpoint at")


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.999])
def test_truncated_tensors(saved: Path, part: float) -> None:
    content = (saved / TENSORS).read_bytes()
    (saved / TENSORS).write_bytes(content[: int(len(content) * part)])
    refused(saved, "damaged or not a safetensors file")


def test_other_file_under_the_name(saved: Path) -> None:
    torch.save({"a": torch.zeros(3)}, saved / TENSORS)
    refused(saved, "damaged or not a safetensors file")


def test_foreign_safetensors(saved: Path) -> None:
    save_file({"weight": torch.zeros(3)}, saved / TENSORS)
    refused(saved, "not written by anywidth")


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"format": 1}', '"x"'])
def test_damaged_settings_in_the_tensors(saved: Path, text: str) -> None:
    rewrite(saved, lambda _: text)
    refused(saved, "settings; restore it|settings .*; restore it")


def test_format_of_another_version(saved: Path) -> None:
    rewrite(saved, lambda settings: json.dumps({**settings, "format": 99}))
    refused(saved, "format 99 .*update anywidth")


def test_statistics_of_a_config_that_does_not_fit(saved: Path) -> None:
    def change(settings: dict[str, Any]) -> str:
        first = next(iter(settings["statistics"].values()))
        first["channels"] = {"elsewhere": 4}
        return json.dumps(settings)

    rewrite(saved, change)
    refused(saved, "statistics that do not fit")


def test_statistics_that_are_missing(saved: Path) -> None:
    with safe_open(saved / TENSORS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        metadata = file.metadata()
    victim = next(name for name in tensors if name.startswith("statistics/"))
    save_file({k: v for k, v in tensors.items() if k != victim}, saved / TENSORS, metadata)
    refused(saved, "damaged statistics for width")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], str]) -> None:
    with safe_open(folder / TENSORS, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        settings = json.loads(file.metadata()["anywidth"])
    save_file(tensors, folder / TENSORS, {"anywidth": change(settings)})


def test_damaged_json_beside_the_tensors(saved: Path) -> None:
    (saved / SETTINGS).write_text('{"format": 1, "mod')
    refused(saved, r"supernet.json is damaged .*delete it")
    (saved / SETTINGS).unlink()
    assert load(saved, find("residual")).divisor == 2


def test_checkpoint_of_another_architecture(saved: Path) -> None:
    refused(saved, "another model .*saved from Residual, loaded into Concat.*more differences", find("concat"))


def test_checkpoint_of_other_shapes(saved: Path) -> None:
    model = find("residual").model()
    model.head = nn.Linear(16, 7).double()
    before = model.head.weight.detach().clone()
    with pytest.raises(CheckpointError, match=r"head.weight has shape \(4, 16\) in the file and \(7, 16\)"):
        aw.load(saved, model)
    assert torch.equal(model.head.weight, before)


def test_same_tensors_in_another_forward(saved: Path) -> None:
    class Unsummed(type(find("residual").model())):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.b(self.a(self.stem(x)))).mean((2, 3)))

    model = Unsummed().double()
    before = model.head.weight.detach().clone()
    with pytest.raises(CheckpointError, match="other channel groups"):
        aw.load(saved, model)
    assert torch.equal(model.head.weight, before)


# -- building ----------------------------------------------------------------------------------------------


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A checkpoint of a model that was built by its name."""
    model = build_model("resnet20", num_classes=3, input_shape=(1, 16, 16), width=0.5)
    return aw.Supernet(model.eval(), torch.randn(1, 1, 16, 16)).save(tmp_path / "named")


def test_a_model_built_by_name_need_not_be_given(named: Path) -> None:
    net = aw.load(named)
    again = aw.load(net.save(named.parent / "again"))  # it still knows its name
    wanted = aw.load(named, build_model("resnet20", num_classes=3, input_shape=(1, 16, 16), width=0.5))
    x = torch.randn(2, 1, 16, 16)
    for found in (net, again):
        assert torch.equal(found.model.eval()(x), wanted.model.eval()(x))


@pytest.mark.parametrize(
    "built_as",
    [{"name": "resnet21", "num_classes": 3, "input_shape": [1, 16, 16]}, {"name": "resnet20"}, {"shape": 3}, 3],
)
def test_a_name_that_cannot_be_built(named: Path, built_as: object) -> None:
    rewrite(named, lambda settings: json.dumps({**settings, "built_as": built_as}))
    with pytest.raises(CheckpointError, match="its ResNet cannot be built from"):
        aw.load(named)


def test_a_model_without_a_name_has_to_be_given(saved: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"does not say how to build its Residual.*anywidth.load\(folder, model\)"
    ):
        aw.load(saved)


# -- writing -----------------------------------------------------------------------------------------------


@pytest.fixture
def changed(supernet_of: SupernetOf, saved: Path) -> aw.Supernet:
    """The saved network, with other weights now."""
    net = supernet_of(find("residual"))
    with torch.no_grad():
        for parameter in net.model.parameters():
            parameter.add_(1)
    return net


def still_loads(folder: Path, before: dict[str, bytes]) -> None:
    assert files(folder) == before
    other = load(folder, find("residual"))
    assert torch.equal(other.model.state_dict()["head.bias"], find("residual").model().state_dict()["head.bias"])


def test_failing_write_keeps_the_old_checkpoint(
    saved: Path, changed: aw.Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(saved)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device.*unchanged"):
            changed.save(saved)
    still_loads(saved, before)


def test_interrupted_write_keeps_the_old_checkpoint(
    saved: Path, changed: aw.Supernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(saved)

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stop)
        with pytest.raises(KeyboardInterrupt):
            changed.save(saved)
    still_loads(saved, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, where the user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_keeps_the_old_checkpoint(small_disk: Path, saved: Path, changed: aw.Supernet) -> None:
    folder = small_disk / "run"
    shutil.copytree(saved, folder)
    before = files(folder)
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"x" * (free - 8192))
    with pytest.raises(CheckpointError, match="could not write .*No space left on device.*unchanged"):
        changed.save(folder)
    still_loads(folder, before)


def test_folder_that_is_a_file(changed: aw.Supernet, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(CheckpointError, match="could not write"):
        changed.save(path)
    with pytest.raises(CheckpointError, match="could not write"):
        changed.save(path / "inside")
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir() if p.name != "run"] == ["file"]


def test_atomic_write_is_old_or_new(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    assert write_atomically(path, lambda temporary: temporary.write_text("old")) == path

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
