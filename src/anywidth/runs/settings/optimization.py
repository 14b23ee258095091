"""Settings of the optimizer and the schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import check_lows, option

__all__ = ["OptimizationSettings"]


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """Length, optimizer, schedule and precision of a training, and the choice of final weights."""

    epochs: int = option(60, low=1, help="passes over the training images")
    accumulate: int = option(1, low=1, help="batches per optimizer step; their gradients are averaged")
    optimizer: str = option("sgd", help="sgd (Nesterov momentum 0.9) or an optimizer of timm, such as adamw or lamb")
    lr: float = option(0.1, help="peak learning rate")
    schedule: Literal["cosine", "linear", "steps"] = option(
        "cosine", metavar="KIND",
        help="decay of the learning rate after warm-up: cosine, linear, or steps (tenfold at 30, 60 and 90 percent)",
    )  # fmt: skip
    weight_decay: float | None = option(
        None, help="weight decay of convolution and linear weights; by default 0.01 for digits, otherwise 0.0001"
    )
    warmup_epochs: float = option(1.0, help="epochs of linear learning-rate warm-up")
    clip: float | None = option(None, help="clip the total gradient norm to this value; by default not clipped")
    skip: bool = option(
        False,
        help="skip steps with a non-finite loss instead of stopping; 20 in a row still stop the training",
    )
    average: float | None = option(
        None,
        help="train as usual but keep a moving average of the weights with this decay, such as 0.999; 0 turns it off; "
        "by default 0.99 for digits, otherwise 0",
    )
    label_smoothing: float | None = option(
        None,
        help="share of each label to spread over all classes; by default 0.1 with --from-search, otherwise 0",
    )
    keep: Literal["last", "best"] = option(
        "last", metavar="WHICH",
        help="weights to keep: those of the last epoch, or of the epoch with the best mean score on --hold-out images",
    )  # fmt: skip
    early_stop: int | None = option(
        None, low=1, help="stop when the mean score on --hold-out images has not improved for this many epochs"
    )
    precision: Literal["32", "bf16", "16"] = option("32", help="training precision: 32, bf16 or 16; 16 needs a GPU")
    compile: bool = option(
        False,
        help="compile each trained width with torch.compile; takes minutes, pays off in long trainings",
    )
    graphs: bool = option(False, help="run each width as a CUDA graph; faster for small networks on a large GPU")

    def __post_init__(self) -> None:
        check_lows(self)
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise SettingsError(f"--label-smoothing is {self.label_smoothing:g}; give 0 or more, below 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise SettingsError(f"--lr is {self.lr:g}; give a learning rate above 0, such as 0.1")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise SettingsError(f"--clip is {self.clip:g}; give a gradient norm above 0, such as 1")
        if self.average is not None and not 0 <= self.average < 1:
            raise SettingsError(f"--average is {self.average:g}; give a decay from 0 to below 1, such as 0.999")
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise SettingsError(f"--weight-decay is {self.weight_decay:g}; give 0 or more")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise SettingsError(
                f"--warmup-epochs is {self.warmup_epochs:g}; give 0 to {self.epochs}, the number of --epochs"
            )
