"""Weights from files and hubs, put into models."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from anywidth.core.errors import ModelError
from anywidth.models import build_model, load_initial

SHAPE = (3, 32, 32)


def resnet(classes: int = 10, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("resnet20", num_classes=classes, input_shape=SHAPE, width=0.25)


def assert_same(left: nn.Module, right: nn.Module, but: str = "nothing") -> None:
    ours, theirs = left.state_dict(), right.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if not name.startswith(but))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model/"])
@pytest.mark.parametrize("kind", ["safetensors", "plain", "nested"])
def test_every_usual_file_is_read(tmp_path, prefix, kind) -> None:
    given, model = resnet(seed=1), resnet()
    tensors = {f"{prefix}{name}": tensor for name, tensor in given.state_dict().items()}
    file = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pt")
    if kind == "safetensors":
        save_file(tensors, file)
    else:
        torch.save({"epoch": 3, "state_dict": tensors} if kind == "nested" else tensors, file)
    assert load_initial(model, file, name="resnet20", input_shape=SHAPE) == []
    assert_same(model, given)


def test_a_classifier_of_other_classes_starts_anew(tmp_path) -> None:
    given, model, before = resnet(7, seed=1), resnet(), resnet()
    torch.save(given.state_dict(), tmp_path / "a.pt")
    new = load_initial(model, tmp_path / "a.pt", name="resnet20", input_shape=SHAPE)
    assert new == ["classifier.bias", "classifier.weight"]
    assert_same(model, given, but="classifier")
    assert torch.equal(model.classifier.weight, before.classifier.weight)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot read weights"),
        (b"PK damaged", "cannot read weights"),
        ({"a": torch.ones(1)}, "only 0 of the"),
        ({"epoch": 1}, "contains no named tensors"),
        ([torch.ones(1)], "contains no named tensors"),
        (torch.ones(3), "contains no named tensors"),
        (b"hi", "damaged, or contains more than named tensors"),
        (nn.Linear(2, 2), "such as a whole module"),
    ],
)
def test_what_fits_no_model_is_told(tmp_path, content, text) -> None:
    file = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    model, before = resnet(), resnet()
    with pytest.raises(ModelError, match=text):
        load_initial(model, file, name="resnet20", input_shape=SHAPE)
    assert_same(model, before)


def test_a_folder_stands_for_the_weights_of_its_run(tmp_path) -> None:
    given, model = resnet(seed=1), resnet()
    with pytest.raises(ModelError, match=r"cannot read weights from .*supernet\.safetensors"):
        load_initial(model, tmp_path, name="resnet20", input_shape=SHAPE)
    save_file(
        {f"model/{name}": tensor for name, tensor in given.state_dict().items()}, tmp_path / "supernet.safetensors"
    )
    assert load_initial(model, tmp_path, name="resnet20", input_shape=SHAPE) == []
    assert_same(model, given)


def test_weights_that_are_not_finite_are_refused(tmp_path) -> None:
    broken = resnet(seed=1).state_dict()
    broken["classifier.bias"][3] = torch.nan
    torch.save(broken, tmp_path / "a.pt")
    with pytest.raises(ModelError, match=r"NaN or infinity in classifier\.bias"):
        load_initial(resnet(), tmp_path / "a.pt", name="resnet20", input_shape=SHAPE)


def test_the_weights_that_torchvision_publishes_are_taken(tmp_path, monkeypatch) -> None:
    """From the cache that a download would fill."""
    weights = torchvision.models.get_model_weights("squeezenet1_1").DEFAULT
    given = torchvision.models.squeezenet1_1(weights=None)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    torch.save(given.state_dict(), folder / weights.url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name, shape = "torchvision/squeezenet1_1", (3, 64, 64)
    model = build_model(name, num_classes=5, input_shape=shape)
    new = load_initial(model, "hub", name=name, input_shape=shape)
    assert new == ["classifier.1.bias", "classifier.1.weight"]
    assert_same(model, given, but="classifier")


@pytest.mark.parametrize("classes", [5, 1000])
def test_the_weights_that_timm_publishes_are_taken(classes, tmp_path, monkeypatch) -> None:
    """A file stands for the download; timm fits it to the classes and colours itself."""
    given = timm.create_model("test_resnet", pretrained=False)
    save_file(given.state_dict(), tmp_path / "model.safetensors")
    create = timm.create_model

    def local(name: str, *, pretrained: bool, **options: object) -> nn.Module:
        overlay = {"pretrained_cfg_overlay": {"file": str(tmp_path / "model.safetensors")}} if pretrained else {}
        return create(name, pretrained=pretrained, **overlay, **options)

    monkeypatch.setattr(timm, "create_model", local)
    name, shape = "timm/test_resnet", (3, 64, 64)
    model = build_model(name, num_classes=classes, input_shape=shape)
    new = load_initial(model, "hub", name=name, input_shape=shape)
    assert new == ([] if classes == 1000 else ["fc.bias", "fc.weight"])
    assert_same(model, given, but="nothing" if classes == 1000 else "fc")


def test_what_nobody_publishes_is_told() -> None:
    with pytest.raises(ModelError, match="no published weights of resnet20"):
        load_initial(resnet(), "hub", name="resnet20", input_shape=SHAPE)
