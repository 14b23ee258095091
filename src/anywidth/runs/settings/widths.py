"""Settings of the widths: which exist, are trained and are evaluated, and what they learn from."""

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
    """Widths that a supernet offers, trains, calibrates and evaluates."""

    min_width: float | None = option(None, help="narrowest width; by default the model's, or 0.25")
    divisor: int | None = option(
        None, low=1, help="round channel numbers to multiples of this; by default the model's divisor, or 8"
    )
    frozen: tuple[str, ...] = option(
        (), metavar="PATTERN", help="glob patterns of groups or modules that are never narrowed"
    )
    switches: tuple[float, ...] | None = option(
        None, parse=parse_switches, metavar="W,W,...",
        help="train only these widths, all in every step, each with its own batch norms: 0.25,0.5,0.75,1.0",
    )  # fmt: skip
    nested: tuple[float, ...] | None = option(
        None, parse=parse_switches, metavar="W,W,...",
        help="train a nested network with only these widths, all from one pass per step: 0.25,0.5,0.75,1.0",
    )  # fmt: skip
    nested_norm: Literal["none", "shell"] = option(
        "none", metavar="KIND",
        help="norms over channels in a nested network: none (refused), or shell (normalize with the channels of the "
        "same and narrower widths)",
    )  # fmt: skip
    average_inputs: bool = option(False, help="scale sums over narrowed inputs by full / active input channels")
    widths_per_step: int = option(4, low=2, help="widths trained per step: the widest, the narrowest and random ones")
    always_include: Ends = option(
        "both", metavar="WHICH",
        help="which of the widest and the narrowest width to train in every step: both, widest, narrowest or none",
    )  # fmt: skip
    width_grid: int | None = option(
        None, low=2,
        help="draw random widths from this many evenly spaced ones; by default any width, or 8 with --compile and "
        "--graphs, where each width is compiled or recorded",
    )  # fmt: skip
    width_sampling: Literal["uniform", "nonuniform"] = option(
        "uniform", metavar="KIND",
        help="random widths: uniform, or nonuniform with a separate width for each channel group",
    )  # fmt: skip
    distillation: Literal["soft", "none"] = option(
        "soft",
        metavar="KIND",
        help="target of narrow widths: soft (outputs of the widest) or none (labels)",
    )
    temperature: float = option(1.0, help="temperature of the distillation, which divides the outputs")
    label_loss_weight: float = option(
        0.0, help="weight of the label loss that is added to the distillation loss of narrow widths"
    )
    evaluated: Widths = option(
        16, name="widths", parse=parse_widths, metavar="N|W,W,...",
        help="widths to calibrate and evaluate: a number of widths, or a list such as 0.25,0.5,1.0",
    )  # fmt: skip
    individual: int = option(
        0, low=0, metavar="K", help="for comparison, also train this many separate networks, each at one width"
    )
    calibration_images: int | None = option(
        None, low=1, help="training images per width for batch-norm statistics; by default all"
    )

    def __post_init__(self) -> None:
        check_lows(self)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SettingsError(f"--temperature is {self.temperature:g}; give a number above 0")
        if not (math.isfinite(self.label_loss_weight) and self.label_loss_weight >= 0):
            raise SettingsError(f"--label-loss-weight is {self.label_loss_weight:g}; give 0 or more")
        if self.switches and self.min_width is not None and self.min_width != min(self.switches):
            raise SettingsError("--switches already set the narrowest width; leave out --min-width")
        fixed = "--switches" if self.switches else "--nested" if self.nested else None
        if self.switches and self.nested:
            raise SettingsError("give --switches or --nested: nested widths share their batch norms")
        if self.nested and self.min_width is not None and self.min_width != min(self.nested):
            raise SettingsError("--nested already sets the narrowest width; leave out --min-width")
        if self.nested_norm != "none" and not self.nested:
            raise SettingsError("--nested-norm applies to nested networks; give --nested too, or leave it out")
        if self.width_grid and fixed:
            raise SettingsError(f"{fixed} fixes all widths that are trained; leave out --width-grid")
