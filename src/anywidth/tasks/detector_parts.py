"""Stand-ins for parts of a torchvision detector whose results are known."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Prepared", "Returns", "binary_divergence", "feature_shapes", "image_list", "shallow"]


class Returns(nn.Module):
    """A module that returns a fixed value, with the `compute_loss` of the module that it replaces."""

    def __init__(self, value: Any, original: nn.Module) -> None:
        super().__init__()
        self._value, self._original = value, (original,)  # a tuple, so that it is not a submodule

    def forward(self, *_: Any) -> Any:
        """The value, for any input."""
        return self._value

    def compute_loss(self, *arguments: Any) -> Any:
        """What the original computes."""
        return self._original[0].compute_loss(*arguments)  # type: ignore[operator]


class Prepared(nn.Module):
    """The transform of a detector for images that went through it before."""

    def __init__(self, images: Any) -> None:
        super().__init__()
        self._images = images

    def forward(self, _: Any, targets: Any = None) -> tuple[Any, Any]:
        """The prepared images, and the targets as they are."""
        return self._images, targets

    def postprocess(self, found: Any, *_: Any) -> Any:
        """The boxes as they are, in pixels of the prepared images."""
        return found


def shallow(module: nn.Module) -> nn.Module:
    """A copy with the same submodules, which may be replaced in the copy."""
    other = copy.copy(module)
    other._modules = dict(module._modules)
    return other


def image_list(like: Tensor, count: int, size: tuple[int, int]) -> Any:
    """Images of a size, without numbers, as the parts of a detector take them."""
    from torchvision.models.detection.image_list import ImageList

    return ImageList(like.new_zeros(()).expand(count, 3, *size), [size] * count)


def feature_shapes(backbone: nn.Module, size: tuple[int, int]) -> dict[str, torch.Size]:
    """Shapes of all outputs of a backbone for one image of a size, by name, without computing them."""
    dtype = next(backbone.parameters()).dtype
    with torch.no_grad():
        found = copy.deepcopy(backbone).to("meta").eval()(torch.empty(1, 3, *size, dtype=dtype, device="meta"))
    return {name: tensor.shape for name, tensor in (found if isinstance(found, Mapping) else {"0": found}).items()}


def binary_divergence(ours: Tensor, theirs: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum of the Kullback-Leibler divergences of probabilities by logits."""
    soft = theirs.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(theirs, soft, weight, reduction="sum")
    return F.binary_cross_entropy_with_logits(ours, soft, weight, reduction="sum") - entropy
