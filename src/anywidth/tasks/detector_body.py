"""The part of a detector that has weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["DetectorBody"]


class DetectorBody(nn.Module):
    """Backbone and head of a one-stage detector of torchvision, whose other parts have no weights.

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
