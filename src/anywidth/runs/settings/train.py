"""Settings of a whole run; config.yaml of a run folder contains these."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option
from anywidth.runs.settings.data import DataSettings
from anywidth.runs.settings.model import ModelSettings
from anywidth.runs.settings.optimization import OptimizationSettings
from anywidth.runs.settings.output import OutputSettings
from anywidth.runs.settings.widths import WidthSettings
from anywidth.runs.values import parse_optional_text

__all__ = ["Device", "TrainSettings"]

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings of a run, by owner; `anywidth train` has an option for each.

    Raises:
        SettingsError: settings do not fit together.

    >>> TrainSettings(optimization=OptimizationSettings(epochs=5), seed=1).optimization.lr
    0.1
    """

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    optimization: OptimizationSettings = field(default_factory=OptimizationSettings)
    widths: WidthSettings = field(default_factory=WidthSettings)
    output: OutputSettings = field(default_factory=OutputSettings)
    from_search: Path | None = option(
        None, metavar="FILE",
        help="train the network that anywidth search found, by the file that it wrote, from scratch, and a uniformly "
        "narrowed one of the same cost alike; options that are not given are those of the searched run",
    )  # fmt: skip
    budget: str | None = option(
        None, parse=parse_optional_text, metavar="B",
        help="which of the budgets of --from-search, such as 20e6; not needed if there is one",
    )  # fmt: skip
    seed: int = option(0, help="of weights, widths, batches and split")
    device: Device = option("auto", help="auto, cpu or cuda; auto takes a GPU if there is one")

    def __post_init__(self) -> None:
        steps, alone = self.optimization, self.widths.individual or self.from_search
        decides = steps.keep == "best" or steps.early_stop
        if self.budget is not None and self.from_search is None:
            raise SettingsError("--budget chooses among the networks of --from-search FILE; give that, too")
        if self.model.init is not None and alone:
            raise SettingsError("networks to compare start from new weights; leave out --init")
        if steps.average and self.widths.switches:
            raise SettingsError("--average knows nothing of the batch norms of --switches; leave one of them out")
        if decides and not self.data.hold_out:
            raise SettingsError("--keep best and --early-stop need images to decide by; give --hold-out 0.1")
        if decides and alone:
            raise SettingsError("networks to compare train for the same epochs; leave out --keep best and --early-stop")
        if (steps.compile or steps.graphs or self.widths.ladder) and self.widths.random == "nonuniform":
            raise SettingsError("--random nonuniform has too many networks for --ladder, --compile and --graphs")

    @property
    def average(self) -> float:
        """The decay of the moving average of the weights, or 0; with so few images the last steps are mostly noise."""
        if self.optimization.average is None:
            return 0.99 if self.data.source == "digits" and not self.widths.switches else 0.0
        return self.optimization.average

    @property
    def ladder(self) -> int:
        """How many even widths random ones are drawn from, or 0 for any width."""
        steps = self.optimization
        return self.widths.ladder or (8 if (steps.compile or steps.graphs) and not self.widths.switches else 0)

    @property
    def label_smoothing(self) -> float:
        """The share of every label that is spread over all classes; AutoSlim retrains with 0.1."""
        if self.optimization.label_smoothing is None:
            return 0.0 if self.from_search is None else 0.1
        return self.optimization.label_smoothing

    @property
    def weight_decay(self) -> float:
        """The weight decay; the digits are so few that a network learns them by heart without more of it."""
        if self.optimization.weight_decay is None:
            return 1e-2 if self.data.source == "digits" else 1e-4
        return self.optimization.weight_decay
