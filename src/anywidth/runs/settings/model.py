"""Settings of the model that a run trains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option

__all__ = ["ModelSettings"]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network, and the weights that it starts with."""

    name: str = option(
        "digits", name="model",
        help="digits, mobilenet_v1, mobilenet_v2, resnet18, ..., torchvision/NAME or timm/NAME",
    )  # fmt: skip
    width_mult: float = option(
        1.0, help="build the model wider than its class says, such as 1.5; only for our own models"
    )
    init: str | None = option(
        None, metavar="FILE|hub",
        help="start from these weights: a file of tensors by name (.safetensors, .pt) of the same model, such as "
        "supernet.safetensors of a run; the folder of a run; or hub for what timm or torchvision publish",
    )  # fmt: skip
    order: Literal["l1", "none"] | None = option(
        None, metavar="KIND",
        help="l1 puts the important channels of --init first, so that narrow widths start with them; by default l1, "
        "or none for what was trained at many widths already",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not (math.isfinite(self.width_mult) and self.width_mult > 0):
            raise SettingsError(f"--width-mult is {self.width_mult:g}; give a factor above 0, such as 1.5")
        if self.init is None and self.order == "l1":
            raise SettingsError("--order l1 sorts the weights that --init gives; new ones have no order")
