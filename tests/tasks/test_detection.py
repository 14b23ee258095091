"""Detection: what the task computes is what torchvision's detector computes, at every width."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet, maskrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import MultiScaleRoIAlign

import anywidth as aw
from anywidth.core.errors import LossError, MissingExtraError, SettingsError, TrainingError
from anywidth.tasks import Detection
from anywidth.training.lightning import SandwichModule

SIZE = (32, 48)


class Backbone(nn.Sequential):
    """A backbone of one map."""

    def __init__(self, channels: int, several: bool = False) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, 4, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, channels, 3, 2, 1), nn.ReLU()
        )
        self.out_channels = [channels] if several else channels


def retina() -> nn.Module:
    anchors = AnchorGenerator(((8, 16),), ((1.0,),))
    return RetinaNet(Backbone(32), 3, anchor_generator=anchors, min_size=32, max_size=64, score_thresh=0.0)


def fcos() -> nn.Module:
    anchors = AnchorGenerator(((8,),), ((1.0,),))
    return FCOS(Backbone(32), 3, anchor_generator=anchors, min_size=32, max_size=64, score_thresh=0.0)


def ssd() -> nn.Module:
    boxes = DefaultBoxGenerator([[2]], min_ratio=20, max_ratio=60)
    return SSD(Backbone(32, several=True), boxes, (SIZE[1], SIZE[0]), 3, score_thresh=0.0)


def faster_rcnn() -> nn.Module:
    return FasterRCNN(
        Backbone(32), 3, rpn_anchor_generator=AnchorGenerator(((8, 16),), ((1.0,),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 3, 1), box_score_thresh=0.0,
    )  # fmt: skip


DETECTORS = {"retina": retina, "fcos": fcos, "ssd": ssd, "faster r-cnn": faster_rcnn}


def samples() -> list[tuple[Tensor, dict[str, Tensor]]]:
    torch.manual_seed(1)
    boxes = torch.tensor([[5.0, 5, 40, 30], [30, 10, 70, 35]])
    return [
        (torch.rand(3, 40, 80), {"boxes": boxes, "labels": torch.tensor([1, 2])}),
        (torch.rand(3, 64, 32), {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}),
    ]


def made(name: str) -> tuple[nn.Module, Detection]:
    torch.manual_seed(0)
    detector = DETECTORS[name]()
    for parameter in detector.parameters():
        nn.init.normal_(parameter, std=0.1)
    return detector, Detection(detector, size=SIZE)


def fixed(detector: nn.Module) -> nn.Module:
    other = copy.deepcopy(detector)
    other.transform.fixed_size, other.transform.size_divisible = (SIZE[1], SIZE[0]), 1
    return other


@pytest.mark.parametrize("name", DETECTORS)
def test_losses_and_boxes_are_those_of_the_detector(name: str) -> None:
    detector, task = made(name)
    images, targets = task.collate(samples())
    assert images.shape == (2, 3, *SIZE)
    theirs = fixed(detector).train()
    given = [{key: value.clone() for key, value in target.items()} for _, target in samples()]
    detector.train()
    torch.manual_seed(2)  # Faster R-CNN samples its proposals
    wanted = theirs([image for image, _ in samples()], given)
    torch.manual_seed(2)
    torch.testing.assert_close(task.loss(task.body(images), targets), sum(wanted.values()))
    detector.eval()
    theirs = fixed(detector).eval()
    theirs.transform.postprocess = lambda found, *_: found
    with torch.no_grad():
        wanted, found = theirs([image for image, _ in samples()]), task.predict(task.body(images))
    assert len(found[0]["boxes"]) > 5
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", DETECTORS)
def test_all_widths_train_and_a_narrow_detector_is_whole(name: str) -> None:
    detector, task = made(name)
    net = aw.Supernet(task.body, task.example())
    assert net.elastic_share == 1 or name == "faster r-cnn"
    images, targets = task.collate(samples())
    detector.train()
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        torch.manual_seed(2)
        optimizer.zero_grad()
        losses.append(aw.sandwich_step(net, images, targets, task=task, widths=[1.0, 0.25]).losses)
        optimizer.step()
    assert losses[-1][0] < losses[0][0]
    assert all(parameter.grad is not None for parameter in detector.parameters())
    aw.calibrate(net, [images], [0.25, 1.0])
    narrow = task.detector(net.extract(0.25)).eval()
    assert type(narrow) is type(detector)
    widths = [sum(p.numel() for p in one.get_submodule("backbone").parameters()) for one in (narrow, detector)]
    assert widths[0] < 0.6 * widths[1]
    found = narrow([image for image, _ in samples()])
    assert [set(one) for one in found] == [{"boxes", "scores", "labels"}] * 2
    # In pixels of the images as they were given.
    inside = task.predict(net.extract(0.25).eval()(images))[0]["boxes"]
    torch.testing.assert_close(found[0]["boxes"], inside * torch.tensor([80 / 48, 40 / 32] * 2), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_student_learns_what_it_lacks(name: str) -> None:
    detector, task = made(name)
    images, _ = task.collate(samples())
    task.body.eval()
    output = task.body(images)
    torch.testing.assert_close(task.distill(output, output), torch.zeros(()), atol=1e-4, rtol=0)
    leaves, spec = pytree.tree_flatten(output)
    assert len(leaves) > 1
    for number in range(len(leaves)):
        other = [leaf + torch.randn_like(leaf) if i == number else leaf for i, leaf in enumerate(leaves)]
        assert task.distill(pytree.tree_unflatten(other, spec), output) > 0.01


@pytest.mark.parametrize("name", DETECTORS)
def test_precision_of_perfect_boxes_is_100(name: str) -> None:
    detector, task = made(name)
    _, targets = task.collate(samples())
    perfect = [{**target, "scores": torch.ones(len(target["labels"]))} for target in targets]
    for metric in task.metrics().values():
        metric.update(perfect, targets)
        assert float(metric.compute()) == pytest.approx(100)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"boxes": torch.zeros(1, 4)}, "needs boxes and labels"),
        ({"boxes": torch.zeros(1, 5), "labels": torch.ones(1)}, r"shapes \(objects, 4\)"),
        ({"boxes": torch.tensor([[5.0, 5, 5, 9]]), "labels": torch.ones(1)}, r"box \[5.0, 5.0, 5.0, 9.0\]"),
        ({"boxes": torch.tensor([[5.0, 5, 90, 9]]), "labels": torch.ones(1)}, "inside the image"),
        ({"boxes": torch.tensor([[5.0, 5, 8, 9]]), "labels": torch.zeros(1).long()}, "0 is the background"),
    ],
)
def test_bad_boxes_are_named(target: dict[str, Tensor], message: str) -> None:
    _, task = made("retina")
    with pytest.raises(LossError, match=message):
        task.collate([(torch.rand(3, 40, 80), target)])


def test_other_detectors_targets_and_labels_are_refused() -> None:
    with pytest.raises(SettingsError, match="MaskRCNN is not an SSD"):
        Detection(maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2))
    with pytest.raises(SettingsError, match="give size="):
        Detection(retina())
    _, task = made("retina")
    images, targets = task.collate(samples())
    output = task.body(images)
    with pytest.raises(LossError, match=r"collate_fn=task\.collate"):
        task.check(output, torch.zeros(2), values=True)
    targets[0]["labels"] = torch.tensor([1, 3])
    with pytest.raises(LossError, match="label 3, but the detector has 3 classes"):
        task.check(output, targets, values=True)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtraError, match=r"anywidth\[detection\]"):
        made("retina")[1].metrics()


def test_the_second_stage_is_evaluated_in_evaluation_mode_and_copied() -> None:
    detector, task = made("faster r-cnn")
    detector.roi_heads.box_head = nn.Sequential(nn.Flatten(), nn.Linear(32 * 9, 1024), nn.BatchNorm1d(1024), nn.ReLU())
    detector.train()
    images, _ = task.collate(samples())
    with torch.no_grad():
        output = task.body.eval()(images)
        task.predict(output)
    norm = detector.roi_heads.box_head[2]
    assert (int(norm.num_batches_tracked), norm.training) == (0, True)
    half = task.detector(task.body).eval()
    assert norm.training
    assert half.roi_heads is not detector.roi_heads
    assert half.backbone is task.body.backbone


def test_weights_outside_of_the_supernet_are_refused_by_lightning() -> None:
    detector, task = made("faster r-cnn")
    assert {id(p) for p in task.outside} == {id(p) for p in detector.roi_heads.parameters()}
    net = aw.Supernet(task.body, task.example())
    with pytest.raises(TrainingError, match="weights outside of the supernet"):
        SandwichModule(net, task=task)
    assert made("retina")[1].outside == []


def test_precision_without_any_object_is_not_a_number() -> None:
    _, task = made("retina")
    net = aw.Supernet(task.body, task.example())
    images, targets = task.collate(samples()[1:])
    aw.calibrate(net, [images], [1.0])
    with pytest.raises(LossError, match="'mAP' is nan"):
        aw.evaluate(net, [(images, targets)], task=task)


@pytest.mark.parametrize(
    ("image", "labels", "message"),
    [
        (torch.zeros(3, 40, 80, dtype=torch.uint8), torch.tensor([1]), "must be float"),
        (torch.full((3, 40, 80), 255.0), torch.tensor([1]), "values up to 255"),
        (torch.zeros(3, 40, 80), torch.tensor([1.0]), "they must be integers"),
    ],
)
def test_bad_images_and_labels_are_named(image: Tensor, labels: Tensor, message: str) -> None:
    _, task = made("retina")
    with pytest.raises(LossError, match=message):
        task.collate([(image, {"boxes": torch.tensor([[5.0, 5, 8, 9]]), "labels": labels})])


def test_targets_have_to_be_as_many_as_images() -> None:
    _, task = made("retina")
    images, targets = task.collate(samples())
    with pytest.raises(LossError, match="1 targets for 2 images"):
        task.check(task.body(images), targets[:1], values=True)
    with pytest.raises(LossError, match="needs boxes and int64 labels"):
        task.check(task.body(images), [{"boxes": targets[0]["boxes"]}] * 2, values=False)
