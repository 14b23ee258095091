"""Object detection with torchvision's detectors."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from anywidth.core.errors import LossError, SettingsError
from anywidth.core.extras import from_extra
from anywidth.core.tensors import tensors_in
from anywidth.tasks.fitting import describe
from anywidth.tasks.one_stage import OneStage
from anywidth.tasks.outputs import detached
from anywidth.tasks.two_stage import TwoStage

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["Detection"]


class Detection:
    """Boxes with a class: the losses of a detector of torchvision, and mAP.

    The supernet is built on `body`, the backbone and the head of an SSD, SSDlite, RetinaNet or FCOS, which contain all
    its weights. Of a Faster R-CNN, it contains the backbone and the proposals. Anchors, matching, losses, the second
    stage and non-maximum suppression remain those of the detector:

        task = Detection(ssdlite320_mobilenet_v3_large(num_classes=21, weights=None, weights_backbone=None))
        net = Supernet(task.body, task.example())
        loader = DataLoader(dataset, batch_size=16, collate_fn=task.collate)
        sandwich_step(net, images, targets, task=task)
        half = task.detector(net.extract(0.5))  # a torchvision detector

    Narrow widths learn the teacher's class probabilities of every anchor (Kullback-Leibler divergence, binary for
    detectors with a sigmoid per class), and its boxes (smooth L1 error of the regressed offsets), weighted by the
    teacher's probability that the anchor shows an object. Both are divided by the sum of these probabilities, at least
    1 per batch. Of a Faster R-CNN, they also learn the features, which the second stage reads (squared error relative
    to the mean square of the teacher's). This follows the idea of "Learning Efficient Object Detection Models with
    Knowledge Distillation" (Chen et al. 2017).

    Args:
        detector: A detector, whose weights are those of the supernet; its transform normalizes and resizes images.
            Train `detector.parameters()`: those of a second stage learn with the widest network.
        size: Height and width to which all images are resized; by default the fixed size of the detector, if any.

    Raises:
        SettingsError: the detector is of another kind, or has no fixed size and none is given.
    """

    def __init__(self, detector: nn.Module, *, size: tuple[int, int] | None = None) -> None:
        from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
        from torchvision.models.detection.ssd import SSD

        two = isinstance(detector, FasterRCNN) and not isinstance(detector, (MaskRCNN, KeypointRCNN))
        if not two and not isinstance(detector, (SSD, RetinaNet, FCOS)):
            raise SettingsError(
                f"{type(detector).__name__} is not an SSD, RetinaNet, FCOS or Faster R-CNN of torchvision. Build the "
                "Supernet on its backbone, and give a task of your own, or its losses as loss="
            )
        self._transform = copy.deepcopy(detector.get_submodule("transform"))
        fixed = self._transform.fixed_size  # (width, height)
        if size is None and fixed is None:
            raise SettingsError(
                f"{type(detector).__name__} takes images of any size; give size=(height, width), such as (512, 512)"
            )
        self.size: tuple[int, int] = size or (fixed[1], fixed[0])  # type: ignore[index]
        self._transform.fixed_size = (self.size[1], self.size[0])  # type: ignore[assignment]
        self._transform.size_divisible = 1  # type: ignore[assignment] # no padding
        self._stages = TwoStage(detector, self.size) if two else OneStage(detector, self.size)
        self.body: nn.Module = self._stages.body

    @property
    def outside(self) -> list[nn.Parameter]:
        """Parameters of the detector that are not in the supernet: those of a second stage."""
        inside = set(map(id, self.body.parameters()))
        return [parameter for parameter in self._stages.detector.parameters() if id(parameter) not in inside]

    def example(self) -> Tensor:
        """Example inputs for the supernet: one image, shape (1, 3, height, width)."""
        weight = next(self.body.parameters())
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
            target["labels"] = target["labels"].long()
        batch, found = self._transform(images, targets)  # type: ignore[operator]
        return batch.tensors, found

    def check(self, output: Any, target: Any, *, values: bool) -> None:
        """Raise a `LossError` if the targets do not fit."""
        if not isinstance(target, (list, tuple)) or not all(isinstance(one, Mapping) for one in target):
            raise LossError(
                "targets must be a list with a dict of boxes and labels for every image; give collate_fn=task.collate "
                "to the DataLoader"
            )
        for number, one in enumerate(target):
            if not {"boxes", "labels"} <= set(one) or one["labels"].dtype != torch.int64:
                raise LossError(
                    f"target {number} needs boxes and int64 labels; give collate_fn=task.collate to the loader"
                )
        images = tensors_in(output)[0].shape[0]
        if len(target) != images:
            raise LossError(f"there are {len(target)} targets for {images} images")
        if not values:
            return
        classes = self._stages.classes(output)
        largest = max((int(one["labels"].max()) for one in target if one["labels"].numel()), default=0)
        if largest >= classes:
            raise LossError(f"a box has the label {largest}, but the detector has {classes} classes, with background 0")

    def loss(self, output: Any, target: Any) -> Tensor:
        """Sum of the detector's losses, a scalar."""
        losses = self._stages.finish(output, [dict(one) for one in target])
        return torch.stack(list(losses.values())).sum()

    def distill(self, output: Any, teacher: Any) -> Tensor:
        """Divergence of class probabilities and error of boxes against the teacher, a scalar."""
        return self._stages.distill(output, detached(teacher))

    def metrics(self) -> Mapping[str, Metric]:
        """Mean average precision over IoU 0.5 to 0.95 and at 0.5, as for COCO (100 boxes per image), in percent.

        Raises:
            MissingExtraError: pycocotools is not installed.
        """
        with from_extra("detection", "the mean average precision needs pycocotools"):
            import pycocotools  # type: ignore[import-untyped] # noqa: F401
        from torchmetrics.detection import MeanAveragePrecision

        from anywidth.tasks.task_metric import TaskMetric

        found = {}
        for name, key in {"mAP": "map", "mAP50": "map_50"}.items():
            precision = MeanAveragePrecision()
            precision.warn_on_many_detections = False  # leaving some out is part of the definition
            found[name] = TaskMetric(precision, unit="%", key=key, undefined=-1)
        return found

    def predict(self, output: Any) -> list[dict[str, Tensor]]:
        """A dict of `boxes`, `scores` and `labels` for every image, in pixels of the resized images."""
        return self._stages.finish(output, None)

    def detector(self, body: nn.Module) -> nn.Module:
        """A whole detector of torchvision with the weights of a body, such as `net.extract(0.5)`.

        It takes a list of images of any size and, in training mode, their targets.
        """
        whole = self._stages.whole(body)
        whole.transform = copy.deepcopy(self._transform)
        return whole.train(body.training)


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
    if image.ndim != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise LossError(
            f"image {number} of the batch is {describe(image)}; it must be float of shape (3, height, width)"
        )
    if image.numel() and not (float(image.min()) >= 0 and float(image.max()) <= 1):
        raise LossError(f"image {number} of the batch has values up to {float(image.max()):g}; scale them to [0, 1]")
    if labels.is_floating_point():
        raise LossError(f"target {number} of the batch has labels of {describe(labels)}; they must be integers")
    if labels.numel() and int(labels.min()) < 1:
        raise LossError(f"target {number} of the batch has the label {int(labels.min())}; 0 is the background")
