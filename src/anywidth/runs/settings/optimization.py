"""Settings of the optimizer and its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import check_lows, option

__all__ = ["OptimizationSettings"]


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """How long a network is trained, by which optimizer and schedule, and which of its weights are kept."""

    epochs: int = option(60, low=1, help="passes over the training images")
    accumulate: int = option(1, low=1, help="batches per step of the optimizer, whose gradients are averaged")
    optimizer: str = option(
        "sgd", help="sgd, which has Nesterov momentum 0.9, or any other of timm, such as adamw or lamb"
    )
    lr: float = option(0.1, help="peak learning rate, which the schedule takes down")
    schedule: Literal["cosine", "linear", "steps"] = option(
        "cosine", metavar="KIND",
        help="of the learning rate after warm-up: cosine, linear, or steps, to a tenth at 30, 60 and 90 percent",
    )  # fmt: skip
    weight_decay: float | None = option(
        None, help="of convolution and linear weights; by default 0.01 for digits and else 0.0001"
    )
    warmup_epochs: float = option(1.0, help="epochs in which the learning rate climbs in a line")
    clip: float | None = option(None, help="largest norm of all gradients together; by default they are not clipped")
    skip: bool = option(
        False,
        help="leave out steps in which a loss is not finite, instead of stopping; 20 in a row stop all the same",
    )
    average: float | None = option(
        None,
        help="train as usual but keep the moving average of the weights with this decay, such as 0.999, or 0 for "
        "none; by default 0.99 for digits and else 0",
    )
    label_smoothing: float | None = option(
        None,
        help="share of every label that is spread over all classes; by default 0.1 with --from-search, else 0",
    )
    keep: Literal["last", "best"] = option(
        "last", metavar="WHICH",
        help="the weights of the last epoch, or of the best by the mean score on --hold-out",
    )  # fmt: skip
    early_stop: int | None = option(
        None, low=1, help="stop when the mean score on --hold-out has not risen for this many epochs"
    )
    precision: Literal["32", "bf16", "16"] = option("32", help="32, bf16 or 16 bits in training; 16 needs a GPU")
    compile: bool = option(
        False,
        help="compile every width that is trained, by torch.compile, which takes minutes and pays in long trainings",
    )
    graphs: bool = option(False, help="run every width from a CUDA graph, which pays for small networks on a large GPU")

    def __post_init__(self) -> None:
        check_lows(self)
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise SettingsError(f"--label-smoothing is {self.label_smoothing:g}; give a share below 1, such as 0.1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise SettingsError(f"--lr is {self.lr:g}; give a learning rate above 0, such as 0.1")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise SettingsError(f"--clip is {self.clip:g}; give the largest norm of the gradients, above 0")
        if self.average is not None and not 0 <= self.average < 1:
            raise SettingsError(f"--average is {self.average:g}; give a decay between 0 and 1, such as 0.999")
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise SettingsError(f"--weight-decay is {self.weight_decay:g}; give 0 or more")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise SettingsError(
                f"--warmup-epochs is {self.warmup_epochs:g} of {self.epochs} epochs; give at most all of them"
            )
