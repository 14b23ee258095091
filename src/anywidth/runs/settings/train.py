"""Settings of a whole run, as stored in `config.yaml`."""

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
    """Settings of a run, grouped by owner; each is an option of `anywidth train`.

    Raises:
        SettingsError: the settings contradict each other.

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
        help="results of anywidth search: train its network from scratch, and a uniform network of the same cost; "
        "settings that are not given come from the searched run",
    )  # fmt: skip
    budget: str | None = option(
        None, parse=parse_optional_text, metavar="B",
        help="budget of --from-search to train for, such as 20e6; needed only if there are several",
    )  # fmt: skip
    seed: int = option(0, help="random seed of weights, widths, batches and splits")
    device: Device = option("auto", help="auto, cpu or cuda; auto uses a GPU if there is one")

    def __post_init__(self) -> None:
        steps, alone = self.optimization, self.widths.individual or self.from_search
        decides = steps.keep == "best" or steps.early_stop
        if self.budget is not None and self.from_search is None:
            raise SettingsError("--budget selects a network of --from-search FILE; give that as well")
        if self.model.init is not None and alone:
            raise SettingsError("--individual and --from-search train from new weights; leave out --init")
        if steps.average and self.widths.switches:
            raise SettingsError("--average does not work with --switches; leave one of them out")
        if decides and not self.data.hold_out:
            raise SettingsError("--keep best and --early-stop need held-out images to score; give --hold-out 0.1")
        if decides and alone:
            raise SettingsError(
                "--individual and --from-search train networks for equal epochs; leave out --keep best and --early-stop"
            )
        if (steps.compile or steps.graphs) and self.widths.nested:
            raise SettingsError("--nested trains all widths from one pass; leave out --compile and --graphs")
        if (steps.compile or steps.graphs or self.widths.width_grid) and self.widths.width_sampling == "nonuniform":
            raise SettingsError(
                "--width-sampling nonuniform samples too many networks for --width-grid, --compile and --graphs"
            )

    @property
    def average(self) -> float:
        """Decay of the moving average of the weights, or 0; the last steps on the small digits dataset are noisy."""
        if self.optimization.average is None:
            return 0.99 if self.data.source == "digits" and not self.widths.switches else 0.0
        return self.optimization.average

    @property
    def width_grid(self) -> int:
        """Number of evenly spaced widths to draw random widths from, or 0 for any width."""
        steps = self.optimization
        return self.widths.width_grid or (8 if (steps.compile or steps.graphs) and not self.widths.switches else 0)

    @property
    def label_smoothing(self) -> float:
        """Share of each label spread over all classes; AutoSlim retrains with 0.1."""
        if self.optimization.label_smoothing is None:
            return 0.0 if self.from_search is None else 0.1
        return self.optimization.label_smoothing

    @property
    def weight_decay(self) -> float:
        """Weight decay; the digits dataset is so small that networks overfit without a higher one."""
        if self.optimization.weight_decay is None:
            return 1e-2 if self.data.source == "digits" else 1e-4
        return self.optimization.weight_decay
