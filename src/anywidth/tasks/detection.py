"""Object detection with torchvision's one-stage detectors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.core.errors import LossError, SettingsError
from anywidth.tasks.detector_body import DetectorBody
from anywidth.tasks.fitting import describe
from anywidth.tasks.outputs import detached

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Detection"]


class Detection:
    """Boxes with a class: the losses of a torchvision detector (SSD, SSDlite, RetinaNet, FCOS), and mAP.

    The supernet is built on `body`, the backbone and the head of the detector, which contain all its weights. Anchors,
    matching, losses and non-maximum suppression have none and remain those of the detector:

        task = Detection(ssdlite320_mobilenet_v3_large(num_classes=21, weights=None, weights_backbone=None))
        net = Supernet(task.body, task.example())
        loader = DataLoader(dataset, batch_size=16, collate_fn=task.collate)
        sandwich_step(net, images, targets, task=task)
        half = task.detector(net.extract(0.5))  # a torchvision detector

    Narrow widths learn the teacher's class probabilities of every anchor (Kullback-Leibler divergence, binary for
    detectors with a sigmoid per class), and its boxes (smooth L1 error of the regressed offsets), weighted by the
    teacher's probability that the anchor shows an object. Both are divided by the sum of these probabilities, at least
    1 per batch. This follows the idea of "Learning Efficient Object Detection Models with Knowledge Distillation" (Chen
    et al. 2017), without hints from hidden layers.

    Args:
        detector: A detector, whose weights are those of the supernet; its transform normalizes and resizes images.
        size: Height and width to which all images are resized; by default the fixed size of the detector, if any.

    Raises:
        SettingsError: the detector is of another kind, or has no fixed size and none is given.
    """

    def __init__(self, detector: nn.Module, *, size: tuple[int, int] | None = None) -> None:
        from torchvision.models.detection import FCOS, RetinaNet
        from torchvision.models.detection.ssd import SSD

        if not isinstance(detector, (SSD, RetinaNet, FCOS)):
            raise SettingsError(
                f"{type(detector).__name__} is not an SSD, RetinaNet or FCOS of torchvision. Build the Supernet on its "
                "backbone, and give a task of your own, or its losses as loss="
            )
        fixed = detector.transform.fixed_size  # type: ignore[union-attr] # (width, height)
        if size is None and fixed is None:
            raise SettingsError(
                f"{type(detector).__name__} takes images of any size; give size=(height, width), such as (512, 512)"
            )
        self.size: tuple[int, int] = size or (fixed[1], fixed[0])  # type: ignore[index]
        self._detector = detector
        self.body = DetectorBody(detector)
        self._softmax = isinstance(detector, SSD)
        self._transform = copy.deepcopy(detector.transform)
        self._transform.fixed_size = (self.size[1], self.size[0])  # type: ignore[union-attr]
        self._transform.size_divisible = 1  # type: ignore[union-attr] # no padding
        self._shapes: list[torch.Size] = []

    def example(self) -> Tensor:
        """Example inputs for the supernet: one image, shape (1, 3, height, width)."""
        weight = next(self._detector.parameters())
        return torch.rand(1, 3, *self.size, dtype=weight.dtype, device=weight.device)

    def collate(self, samples: Sequence[tuple[Tensor, Mapping[str, Tensor]]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """A batch for the supernet, from images and their targets.

        Args:
            samples: Pairs of an image (3, height, width) with values in [0, 1], and a dict with `boxes`, shape
                (objects, 4), as x1, y1, x2, y2 in pixels, and `labels`, shape (objects,), from 1 on.

        Raises:
            LossError: boxes or labels do not fit.

        Returns:
            Normalized images (batch, 3, height, width), and the targets with the boxes in their pixels.
        """
        images, targets = [image for image, _ in samples], [dict(target) for _, target in samples]
        for number, (image, target) in enumerate(zip(images, targets, strict=True)):
            _check_boxes(number, image, target)
        batch, found = self._transform(images, targets)  # type: ignore[operator]
        return batch.tensors, found

    def check(self, output: Any, target: Any, *, values: bool) -> None:
        """Raise a `LossError` if the targets do not fit."""
        if not isinstance(target, (list, tuple)) or not all(isinstance(one, Mapping) for one in target):
            raise LossError(
                "targets must be a list with a dict of boxes and labels for every image; give collate_fn=task.collate "
                "to the DataLoader"
            )
        classes = output["cls_logits"].shape[-1]
        largest = max((int(one["labels"].max()) for one in target if one["labels"].numel()), default=0)
        if values and largest >= classes:
            raise LossError(f"a box has the label {largest}, but the detector has {classes} classes, with background 0")

    def loss(self, output: Any, target: Any) -> Tensor:
        """Sum of the detector's losses, a scalar."""
        losses = self._finish(output, list(target))
        return torch.stack(list(losses.values())).sum()

    def distill(self, output: Any, teacher: Any) -> Tensor:
        """Divergence of class probabilities and error of boxes against the teacher, a scalar."""
        teacher = detached(teacher)
        ours, theirs = output["cls_logits"], teacher["cls_logits"]
        if self._softmax:
            foreground = 1 - theirs.softmax(-1)[..., 0]
            classes = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True)
        else:
            foreground = theirs.sigmoid().amax(-1)
            classes = _binary_divergence(ours, theirs)
        if "bbox_ctrness" in output:
            classes = classes + _binary_divergence(
                output["bbox_ctrness"], teacher["bbox_ctrness"], foreground[..., None]
            )
        error = F.smooth_l1_loss(output["bbox_regression"], teacher["bbox_regression"], reduction="none").sum(-1)
        return (classes + (error * foreground).sum()) / foreground.sum().clamp(min=1)

    def metrics(self) -> Mapping[str, Metric]:
        """Mean average precision over IoU 0.5 to 0.95 and at 0.5, as for COCO (100 boxes per image), in percent.

        Raises:
            MissingExtraError: pycocotools is not installed.
        """
        from anywidth.core.extras import from_extra

        with from_extra("detection", "the mean average precision needs pycocotools"):
            import pycocotools  # type: ignore[import-untyped] # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision

        from anywidth.tasks.task_metric import TaskMetric

        found = {}
        for name, key in {"mAP": "map", "mAP50": "map_50"}.items():
            precision = MeanAveragePrecision()
            precision.warn_on_many_detections = False  # leaving some out is part of the definition
            found[name] = TaskMetric(precision, unit="%", key=key)
        return found

    def predict(self, output: Any) -> list[dict[str, Tensor]]:
        """A dict of `boxes`, `scores` and `labels` for every image, in pixels of the resized images."""
        return self._finish(output, None)

    def detector(self, body: nn.Module) -> nn.Module:
        """A whole detector of torchvision with the weights of a body, such as `net.extract(0.5)`.

        It takes a list of images of any size and, in training mode, their targets.
        """
        whole = _shallow(self._detector)
        whole.backbone, whole.head, whole.transform = body.backbone, body.head, copy.deepcopy(self._transform)
        return whole.train(body.training)

    def _finish(self, output: Mapping[str, Tensor], targets: list[dict[str, Tensor]] | None) -> Any:
        """What the detector makes of the output of its head: its losses if there are targets, otherwise boxes."""
        from torchvision.models.detection.image_list import ImageList

        rest = _shallow(self._detector)
        count = output["cls_logits"].shape[0]
        image = output["cls_logits"].new_zeros(()).expand(count, 3, *self.size)
        features = OrderedDict(
            (str(number), output["cls_logits"].new_zeros(()).expand(count, *shape[1:]))
            for number, shape in enumerate(self._feature_shapes())
        )
        rest.backbone = _Returns(features, self._detector.backbone)
        rest.head = _Returns(dict(output), self._detector.head)
        rest.transform = _Prepared(ImageList(image, [self.size] * count))
        rest.training = targets is not None
        return rest(list(image), targets)

    def _feature_shapes(self) -> list[torch.Size]:
        """Shapes of the backbone's outputs, on which the anchors depend."""
        if not self._shapes:
            with torch.no_grad():
                found = copy.deepcopy(self._detector.backbone).to("meta").eval()(self.example().to("meta"))
            self._shapes = [tensor.shape for tensor in (found.values() if isinstance(found, Mapping) else [found])]
        return self._shapes


class _Returns(nn.Module):
    """A module that returns a value; `compute_loss` is that of the module in whose place it is."""

    def __init__(self, value: Any, original: nn.Module) -> None:
        super().__init__()
        self._value, self._original = value, (original,)  # a tuple, so that it is no submodule

    def forward(self, *_: Any) -> Any:
        return self._value

    def compute_loss(self, *arguments: Any) -> Any:
        return self._original[0].compute_loss(*arguments)  # type: ignore[operator]


class _Prepared(nn.Module):
    """The transform of a detector for images that went through it before."""

    def __init__(self, images: Any) -> None:
        super().__init__()
        self._images = images

    def forward(self, _: Any, targets: Any = None) -> tuple[Any, Any]:
        return self._images, targets

    def postprocess(self, found: Any, *_: Any) -> Any:
        return found


def _shallow(module: nn.Module) -> nn.Module:
    """A copy with the same submodules, which may be replaced in the copy."""
    other = copy.copy(module)
    other._modules = dict(module._modules)
    return other


def _check_boxes(number: int, image: Tensor, target: Mapping[str, Tensor]) -> None:
    if not {"boxes", "labels"} <= set(target):
        raise LossError(f"target {number} of the batch has {', '.join(target)}; it needs boxes and labels")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise LossError(
            f"target {number} of the batch has boxes of {describe(boxes)} and labels of {describe(labels)}; they need "
            "the shapes (objects, 4), also without objects, and (objects,)"
        )
    height, width = image.shape[-2:]
    bad = (boxes[:, 2:] <= boxes[:, :2]).any(1) | (boxes < 0).any(1) | (boxes[:, 2] > width) | (boxes[:, 3] > height)
    if bad.any():
        raise LossError(
            f"target {number} of the batch has the box {boxes[bad][0].tolist()} in an image of {height} x {width} "
            "pixels (height x width); boxes are x1, y1, x2, y2 with x1 < x2 and y1 < y2, inside the image"
        )
    if labels.numel() and int(labels.min()) < 1:
        raise LossError(f"target {number} of the batch has the label {int(labels.min())}; 0 is the background")


def _binary_divergence(ours: Tensor, theirs: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum of the Kullback-Leibler divergences of probabilities by logits."""
    soft = theirs.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(theirs, soft, weight, reduction="sum")
    return F.binary_cross_entropy_with_logits(ours, soft, weight, reduction="sum") - entropy
