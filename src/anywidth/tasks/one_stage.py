"""Detectors with one stage: SSD, RetinaNet and FCOS of torchvision."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.tasks.detector_parts import Prepared, Returns, binary_divergence, feature_shapes, image_list, shallow

__all__ = ["OneStage", "OneStageBody"]


class OneStageBody(nn.Module):
    """Backbone and head of a one-stage detector, whose other parts have no weights.

    Args:
        detector: An SSD, RetinaNet or FCOS; the two modules are shared with it.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.get_submodule("backbone"), detector.get_submodule("head")
        self.train(detector.training)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of classes (batch, anchors, classes) and offsets of boxes (batch, anchors, 4), by name."""
        features = self.backbone(images)
        return self.head(list(features.values()) if isinstance(features, Mapping) else [features])


class OneStage:
    """What a one-stage detector makes of the output of its head.

    Args:
        detector: The detector.
        size: Height and width of all images.
    """

    def __init__(self, detector: nn.Module, size: tuple[int, int]) -> None:
        from torchvision.models.detection.ssd import SSD

        self.detector, self.size = detector, size
        self.body = OneStageBody(detector)
        self._softmax = isinstance(detector, SSD)
        self._shapes: dict[str, torch.Size] = {}

    def classes(self, output: Mapping[str, Any]) -> int:
        """Number of classes, with the background."""
        return output["cls_logits"].shape[-1]

    def finish(self, output: Mapping[str, Any], targets: list[dict[str, Tensor]] | None) -> Any:
        """The losses if there are targets, otherwise the boxes of every image."""
        logits = output["cls_logits"]
        if not self._shapes:
            self._shapes = feature_shapes(self.detector.get_submodule("backbone"), self.size)
        # Only the sizes of the features are read, to place the anchors.
        empty = logits.new_zeros(())
        features = OrderedDict((name, empty.expand(len(logits), *shape[1:])) for name, shape in self._shapes.items())
        rest, images = shallow(self.detector), image_list(logits, len(logits), self.size)
        rest.backbone = Returns(features, self.detector.get_submodule("backbone"))
        rest.head = Returns(dict(output), self.detector.get_submodule("head"))
        rest.transform = Prepared(images)
        rest.training = targets is not None
        return rest(list(images.tensors), targets)

    def distill(self, output: Mapping[str, Any], teacher: Mapping[str, Any]) -> Tensor:
        """Divergence of class probabilities and error of boxes, divided by the number of objects that are seen."""
        ours, theirs = output["cls_logits"], teacher["cls_logits"]
        if self._softmax:
            foreground = 1 - theirs.softmax(-1)[..., 0]
            classes = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True)
        else:
            foreground = theirs.sigmoid().amax(-1)
            classes = binary_divergence(ours, theirs)
        if "bbox_ctrness" in output:
            classes = classes + binary_divergence(
                output["bbox_ctrness"], teacher["bbox_ctrness"], foreground[..., None]
            )
        error = F.smooth_l1_loss(output["bbox_regression"], teacher["bbox_regression"], reduction="none").sum(-1)
        return (classes + (error * foreground).sum()) / foreground.sum().clamp(min=1)

    def whole(self, body: nn.Module) -> nn.Module:
        """The detector with another body."""
        whole = copy.deepcopy(self.detector)
        whole.backbone, whole.head = body.backbone, body.head
        return whole
