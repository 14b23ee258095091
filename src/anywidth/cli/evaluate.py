"""`anywidth evaluate`: cost and accuracy of a run's supernet at chosen widths."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from anywidth.cli.options import SettingsError, option
from anywidth.cli.train_settings import Device
from anywidth.cli.values import AnyWidths, parse_any_widths
from anywidth.widths import Width

__all__ = ["EvaluateSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The options of `anywidth evaluate`.

    Attributes:
        run: folder that anywidth train wrote
        widths: widths to evaluate: 0.3,0.55, or how many; by default those of the run
        nonuniform: also narrow every stage alone, by this factor, such as 0.6
        out: also write the table to this file, .csv or .json
        device: auto, cpu or cuda
        data_root: folder of downloaded data sets, if it has moved since training
    """

    run: Path = field(metadata=option(positional=True, metavar="RUN"))
    widths: AnyWidths | None = field(default=None, metadata=option(parse=parse_any_widths, metavar="W,W,...|N"))
    nonuniform: float | None = None
    out: Path | None = field(default=None, metadata=option(metavar="FILE"))
    device: Device = "auto"
    data_root: Path | None = None

    def __post_init__(self) -> None:
        if self.out is not None and self.out.suffix not in (".csv", ".json"):
            raise SettingsError(f"--out {self.out}: give a name that ends in .csv or .json")
        if self.nonuniform is not None and not 0 < self.nonuniform < 1:
            raise SettingsError(f"--nonuniform is {self.nonuniform:g}; give a factor between 0 and 1, such as 0.6")


def run(settings: EvaluateSettings) -> int:
    """Print MACs, parameters and accuracy of a run at chosen widths."""
    from rich.console import Console

    from anywidth.cli.build import choose_any_widths
    from anywidth.cli.open_run import open_run
    from anywidth.cli.threads import fitting_threads
    from anywidth.evaluation import spectrum, widths_by_stage
    from anywidth.report import spectrum_table

    console = Console(highlight=False)
    opened = open_run(settings.run, device=settings.device, data_root=settings.data_root)
    asked = opened.settings.widths if settings.widths is None else settings.widths
    chosen = choose_any_widths(opened.net, asked)
    named: dict[float | str, Width] = {w if isinstance(w, float) else opened.net.label(w): w for w in chosen}
    if settings.nonuniform is not None:
        stages = widths_by_stage(opened.net, settings.nonuniform)
        named |= {f"{stage} at {settings.nonuniform:g}": width for stage, width in stages.items()}
    with fitting_threads(opened.net, opened.settings.batch_size):
        opened.calibrate_missing(named.values(), console)
        curve = spectrum(opened.net, opened.loaders.test, named, name=str(settings.run))
    console.print(spectrum_table(curve))
    if settings.out is not None:
        write = curve.to_csv if settings.out.suffix == ".csv" else curve.to_json
        console.print(f"written to {write(settings.out)}", soft_wrap=True)
    return 0
