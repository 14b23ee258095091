"""Settings of the widths: which can be had, which are trained and what they learn from, and which are evaluated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import check_lows, option
from anywidth.runs.values import Widths, parse_switches, parse_widths
from anywidth.widths import Ends

__all__ = ["WidthSettings"]


@dataclass(frozen=True, kw_only=True)
class WidthSettings:
    """The widths of a supernet, those in a training step, and those that are calibrated and evaluated."""

    min_width: float | None = option(None, help="narrowest width; by default the model's own, or 0.25")
    divisor: int | None = option(
        None, low=1, help="channels are rounded to multiples of this; by default the model's own, or 8"
    )
    frozen: tuple[str, ...] = option(
        (), metavar="PATTERN", help="groups or modules whose channels are never narrowed, as glob patterns"
    )
    switches: tuple[float, ...] | None = option(
        None, parse=parse_switches, metavar="W,W,...",
        help="train only these widths, all in every step, each with batch norms of its own: 0.25,0.5,0.75,1.0",
    )  # fmt: skip
    average_inputs: bool = option(False, help="scale sums over fewer input channels up, by full over active ones")
    samples: int = option(4, low=2, help="widths trained per step: the widest, the narrowest and random ones")
    ends: Ends = option(
        "both", metavar="WHICH",
        help="of the widest and the narrowest, those in every step: both, widest, narrowest or none",
    )  # fmt: skip
    ladder: int | None = option(
        None, low=2,
        help="draw random widths from this many even ones instead of from all; with --compile and --graphs 8 by "
        "default, as each of them is compiled or recorded",
    )  # fmt: skip
    random: Literal["uniform", "nonuniform"] = option(
        "uniform", metavar="KIND",
        help="uniform random widths, or nonuniform ones, where every channel group has its own",
    )  # fmt: skip
    distillation: Literal["soft", "none"] = option(
        "soft",
        metavar="KIND",
        help="what narrow widths learn from: soft, the outputs of the widest, or none, the labels",
    )
    temperature: float = option(1.0, help="divides the outputs in distillation")
    labels: float = option(0.0, help="how much of the loss on the labels is added to the distillation of narrow widths")
    evaluated: Widths = option(
        16, name="widths", parse=parse_widths, metavar="N|W,W,...",
        help="how many widths to calibrate and evaluate, or which: 0.25,0.5,1.0",
    )  # fmt: skip
    individual: int = option(
        0, low=0, metavar="K", help="also train this many separate networks, alike, each at one width, and compare"
    )
    calibration_images: int | None = option(
        None, low=1, help="training images per width for batch-norm statistics; by default all"
    )

    def __post_init__(self) -> None:
        check_lows(self)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SettingsError(f"--temperature is {self.temperature:g}; give a number above 0")
        if not (math.isfinite(self.labels) and self.labels >= 0):
            raise SettingsError(f"--labels is {self.labels:g}; give 0 or more")
        if self.switches and self.min_width is not None and self.min_width != min(self.switches):
            raise SettingsError("--min-width is the narrowest of --switches; leave it out")
        if self.ladder and self.switches:
            raise SettingsError("--switches are the only widths of their network; leave out --ladder")
