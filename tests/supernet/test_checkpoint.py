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
from anywidth.core.errors import CheckpointError, UncalibratedError
from anywidth.groups import analyse
from anywidth.models import build_model
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


@pytest.mark.parametrize("case", cases(few=True))
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


@pytest.mark.slow
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


@pytest.mark.parametrize("text", ["", "{", "null", "[]", '{"format": 2}', '"x"'])
def test_damaged_settings_in_the_tensors(saved: Path, text: str) -> None:
    rewrite(saved, lambda _: text)
    refused(saved, "settings; restore it|settings .*; restore it")


def test_format_of_another_version(saved: Path) -> None:
    rewrite(saved, lambda settings: json.dumps({**settings, "format": 99}))
    refused(saved, "format 99 .*update anywidth")
    rewrite(saved, lambda settings: json.dumps({"format": 1, "model": settings["model"]}))
    refused(saved, "format 1 and this version reads 2; train again, or load it with the version that wrote it")


@pytest.mark.parametrize("name", ["model/head.bias", "model/stem.0.weight"])
def test_a_single_number_that_was_altered(saved: Path, name: str) -> None:
    content = bytearray((saved / TENSORS).read_bytes())
    with safe_open(saved / TENSORS, "pt") as file:
        value = file.get_tensor(name)
    start = bytes(content).index(value.contiguous().numpy().tobytes())
    content[start] ^= 1
    (saved / TENSORS).write_bytes(bytes(content))
    refused(saved, "was altered after it was written")


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
    refused(saved, "was altered after it was written")


def test_statistics_without_a_label_for_them(saved: Path) -> None:
    def change(settings: dict[str, Any]) -> str:
        first = next(iter(settings["statistics"]))
        settings["statistics"]["0" * len(first)] = settings["statistics"].pop(first)
        return json.dumps(settings)

    rewrite(saved, change)
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
    refused(saved, "a different model .*saved from Residual, loaded into Concat.*more differences", find("concat"))


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
    with pytest.raises(CheckpointError, match="different forward: .*Residual in the file.*Unsummed"):
        aw.load(saved, model)
    assert torch.equal(model.head.weight, before)


class Pooled(nn.Module):
    """Attention pooling over the tokens that a mask keeps, with settings that no tensor shows."""

    def __init__(
        self, act: type[nn.Module] = nn.ReLU, heads: int = 4, eps: float = 1e-5, p: float = 0.1, scale: float = 2.0
    ) -> None:
        super().__init__()
        self.heads, self.constant = heads, torch.tensor(scale)
        self.enter, self.act, self.norm = nn.Linear(4, 32), act(), nn.LayerNorm(32, eps=eps)
        self.inner, self.score, self.drop = nn.Linear(32, 32), nn.Linear(32, 1), nn.Dropout(p)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor, mask: Tensor, training: bool = False) -> Tensor:
        h = self.drop(self.act(self.norm(self.enter(x)))) * self.constant
        batch, tokens, _ = h.shape
        h = self.inner(h).view(batch, tokens, self.heads, -1).softmax(1).flatten(2)
        weight = self.score(h).masked_fill(mask[..., None] == 0, -torch.inf).softmax(1)
        return self.head((h * weight).sum(1))


@pytest.fixture
def pooled(tmp_path: Path) -> tuple[aw.Supernet, Path]:
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 4:] = 0
    net = aw.Supernet(Pooled().eval(), (torch.randn(2, 6, 4), mask), divisor=1)
    return net, net.save(tmp_path / "pooled")


@pytest.mark.parametrize("p", [0.1, 0.4])
def test_masks_and_the_rate_of_dropout(pooled: tuple[aw.Supernet, Path], p: float) -> None:
    net, folder = pooled
    again = aw.load(folder, Pooled(p=p).eval())
    assert again.groups == net.groups
    x, mask = net.inputs.args
    assert torch.equal(again.inputs.args[1], mask)
    assert_close(again.subnet(0.5)(x, mask), net.subnet(0.5)(x, mask), 1e-6)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"act": nn.Tanh}, r"act is a ReLU in the file and a Tanh in the model \(relu, now tanh\)"),
        ({"heads": 8}, "heads of the model is 4 in the file and 8 in the model"),
        ({"eps": 1e-3}, "eps of norm is 1e-05 in the file and 0.001 in the model"),
        ({"scale": 3.0}, "different forward: .*constant"),
    ],
)
def test_a_model_that_differs_in_what_no_tensor_shows(
    pooled: tuple[aw.Supernet, Path], other: dict[str, Any], message: str
) -> None:
    model = Pooled(**other).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        aw.load(pooled[1], model)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_an_attribute_that_was_changed_after_the_supernet_was_made(tmp_path: Path) -> None:
    net = aw.Supernet(nn.Sequential(nn.Linear(4, 32), nn.LeakyReLU(0.1), nn.Linear(32, 2)), torch.randn(2, 4))
    net.model[1].negative_slope = 0.3
    net.save(tmp_path)
    aw.load(tmp_path, nn.Sequential(nn.Linear(4, 32), nn.LeakyReLU(0.3), nn.Linear(32, 2)))
    with pytest.raises(CheckpointError, match="negative_slope of 1 is 0.3 in the file and 0.1 in the model"):
        aw.load(tmp_path, nn.Sequential(nn.Linear(4, 32), nn.LeakyReLU(0.1), nn.Linear(32, 2)))


class Extra(nn.Module):
    """A buffer that is not in the state dict, and a state that is not a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 32), nn.Linear(32, 5)
        self.register_buffer("scale", torch.linspace(0.1, 3, 32), persistent=False)
        self.history: dict[str, Any] = {"steps": 0}

    def get_extra_state(self) -> dict[str, Any]:
        return self.history

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.history = state

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu() * self.scale)


def test_transient_buffers_and_extra_states(tmp_path: Path) -> None:
    x = torch.randn(3, 4)
    net = aw.Supernet(Extra(), x, order="l1")
    history = {"steps": 7, "names": ["a", None], "mean": torch.arange(3), "pair": (1.5, True), 3: b"raw"}
    net.model.history = history
    again = aw.load(net.save(tmp_path), Extra())
    assert str(again.model.history) == str(history)
    for width in (0.5, 1.0):
        assert_close(again.subnet(width)(x), net.subnet(width)(x), 1e-6)


def test_an_extra_state_that_cannot_be_written(tmp_path: Path) -> None:
    net = aw.Supernet(Extra(), torch.randn(3, 4))
    net.model.history = {"object": object()}
    with pytest.raises(CheckpointError, match="extra state _extra_state of type object cannot be saved"):
        net.save(tmp_path)


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
    with pytest.raises(CheckpointError, match="cannot write .*No space left on device.*unchanged"):
        changed.save(folder)
    still_loads(folder, before)


def test_folder_that_is_a_file(changed: aw.Supernet, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(CheckpointError, match="cannot write"):
        changed.save(path)
    with pytest.raises(CheckpointError, match="cannot write"):
        changed.save(path / "inside")
    assert path.read_text() == "precious"
    assert [p.name for p in tmp_path.iterdir() if p.name != "run"] == ["file"]
