"""Detectors with two stages: Faster R-CNN of torchvision."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anywidth.core.modules import module_modes
from anywidth.tasks.detector_parts import Prepared, Returns, binary_divergence, image_list, shallow

__all__ = ["TwoStage", "TwoStageBody"]


class TwoStageBody(nn.Module):
    """Backbone and proposal head of a Faster R-CNN.

    The second stage reads the features inside boxes, so it runs outside. The number of channels that it reads is fixed.

    Args:
        detector: A Faster R-CNN; the two modules are shared with it.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.get_submodule("backbone"), detector.get_submodule("rpn.head")
        self.train(detector.training)

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Features by level, and for every level the objectness and the offsets of its anchors."""
        features = self.backbone(images)
        if isinstance(features, Tensor):
            features = {"0": features}
        objectness, offsets = self.head(list(features.values()))
        return {"features": dict(features), "objectness": objectness, "offsets": offsets}


class TwoStage:
    """What a Faster R-CNN makes of its features and proposals.

    Args:
        detector: The detector.
        size: Height and width of all images.
    """

    def __init__(self, detector: nn.Module, size: tuple[int, int]) -> None:
        self.detector, self.size = detector, size
        self.body = TwoStageBody(detector)
        self._classes = detector.get_parameter("roi_heads.box_predictor.cls_score.weight").shape[0]

    def classes(self, output: Mapping[str, Any]) -> int:
        """Number of classes, with the background."""
        return self._classes

    def finish(self, output: Mapping[str, Any], targets: list[dict[str, Tensor]] | None) -> Any:
        """The losses if there are targets, otherwise the boxes of every image."""
        features = OrderedDict(output["features"])
        like = next(iter(features.values()))
        rest, images = shallow(self.detector), image_list(like, len(like), self.size)
        rest.backbone, rest.transform = Returns(features, self.detector.get_submodule("backbone")), Prepared(images)
        rest.rpn = shallow(self.detector.get_submodule("rpn"))
        rest.rpn.head = Returns((output["objectness"], output["offsets"]), self.detector.get_submodule("rpn.head"))
        second = self.detector.get_submodule("roi_heads")
        rest.training = rest.rpn.training = targets is not None
        # Its batch norms and dropout run as those of the first stage.
        with module_modes(second, None if targets is not None else False):
            second.training = targets is not None
            return rest(list(images.tensors), targets)

    def distill(self, output: Mapping[str, Any], teacher: Mapping[str, Any]) -> Tensor:
        """Divergence of objectness and error of offsets, as for one stage, and the relative error of the features."""
        found, weights = [], []
        for key in range(len(output["objectness"])):
            theirs = teacher["objectness"][key]
            foreground = theirs.sigmoid()
            offsets = output["offsets"][key], teacher["offsets"][key]
            error = F.smooth_l1_loss(*offsets, reduction="none").unflatten(1, (-1, 4)).sum(2)
            found.append(binary_divergence(output["objectness"][key], theirs) + (error * foreground).sum())
            weights.append(foreground.sum())
        levels = [
            (output["features"][name] - theirs).square().mean() / theirs.square().mean().clamp(min=1e-12)
            for name, theirs in teacher["features"].items()
        ]
        return torch.stack(found).sum() / torch.stack(weights).sum().clamp(min=1) + torch.stack(levels).mean()

    def whole(self, body: nn.Module) -> nn.Module:
        """The detector with another body."""
        whole = copy.deepcopy(self.detector)
        whole.backbone = body.backbone
        whole.get_submodule("rpn").head = body.head
        return whole
