"""Settings of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option

__all__ = ["ModelSettings"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The model and its initial weights."""

    name: str = option(
        "digits", name="model",
        help="digits, mobilenet_v1, mobilenet_v2, resnet18, ..., torchvision/NAME or timm/NAME",
    )  # fmt: skip
    width_mult: float = option(1.0, help="widen the model by this factor, such as 1.5; built-in models only")
    init: str | None = option(
        None, metavar="FILE|hub",
        help="initial weights: a file of named tensors (.safetensors, .pt) of the same model, such as "
        "supernet.safetensors of a run; a run folder; or hub for pretrained weights from timm or torchvision",
    )  # fmt: skip
    order: Literal["l1", "none"] | None = option(
        None, metavar="KIND",
        help="l1 moves the most important channels of --init first, where narrow widths start; none keeps their "
        "order; by default l1, or none for weights that were trained at many widths",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not (math.isfinite(self.width_mult) and self.width_mult > 0):
            raise SettingsError(f"--width-mult is {self.width_mult:g}; give a factor above 0, such as 1.5")
        if self.init is None and self.order == "l1":
            raise SettingsError("--order l1 sorts the channels of existing weights; give them with --init")
