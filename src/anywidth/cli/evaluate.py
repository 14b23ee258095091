"""`anywidth evaluate`: cost and accuracy of a run's supernet at chosen widths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option
from anywidth.runs.run_folder import RunFolder
from anywidth.runs.settings import Device
from anywidth.runs.values import AnyWidths, parse_any_widths

__all__ = ["EvaluateSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """The options of `anywidth evaluate`."""

    run: Path = option(positional=True, metavar="RUN", help="folder that anywidth train wrote")
    widths: AnyWidths | None = option(
        None,
        parse=parse_any_widths,
        metavar="W,W,...|N",
        help="widths to evaluate: 0.3,0.55, or a number of widths; by default the run's widths",
    )
    nonuniform: float | None = option(None, help="also narrow each stage alone by this factor, such as 0.6")
    out: Path | None = option(None, metavar="FILE", help="also write the table to this .csv or .json file")
    device: Device = option("auto", help="auto, cpu or cuda")
    data_root: Path | None = option(None, help="folder of downloaded datasets, if it moved after training")

    def __post_init__(self) -> None:
        if self.out is not None and self.out.suffix not in (".csv", ".json"):
            raise SettingsError(f"--out {self.out} has an unknown format; use a name that ends in .csv or .json")
        if self.nonuniform is not None and not 0 < self.nonuniform < 1:
            raise SettingsError(f"--nonuniform is {self.nonuniform:g}; give a factor between 0 and 1, such as 0.6")


def run(settings: EvaluateSettings) -> int:
    """Print MACs, parameters and accuracy of a run at chosen widths."""
    RunFolder.open(settings.run)  # a wrong path need not wait for the imports below
    from rich.console import Console

    from anywidth.cli.console_reporter import ConsoleReporter
    from anywidth.report import spectrum_table
    from anywidth.runs.open_run import open_run

    console = Console(highlight=False)
    opened = open_run(
        settings.run, device=settings.device, data_root=settings.data_root, reporter=ConsoleReporter(console)
    )
    curve = opened.evaluate(settings.widths, nonuniform=settings.nonuniform)
    console.print(spectrum_table(curve))
    if settings.out is not None:
        write = curve.to_csv if settings.out.suffix == ".csv" else curve.to_json
        console.print(f"written to {write(settings.out)}", soft_wrap=True)
    return 0
