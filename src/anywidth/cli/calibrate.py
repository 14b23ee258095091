"""`anywidth calibrate`: add the batch-norm statistics of more widths to the checkpoint of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anywidth.runs.options import option
from anywidth.runs.run_folder import RunFolder
from anywidth.runs.settings import Device
from anywidth.runs.values import AnyWidths, parse_any_widths

__all__ = ["CalibrateSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings:
    """The options of `anywidth calibrate`."""

    run: Path = option(positional=True, metavar="RUN", help="folder that anywidth train wrote")
    widths: AnyWidths = option(
        parse=parse_any_widths,
        metavar="W,W,...|N",
        help="widths to calibrate: 0.3,0.55, or a number of evenly spaced widths",
    )
    device: Device = option("auto", help="auto, cpu or cuda")
    data_root: Path | None = option(None, help="folder of downloaded datasets, if it moved after training")


def run(settings: CalibrateSettings) -> int:
    """Calibrate more widths of a run and add their batch-norm statistics to its checkpoint."""
    RunFolder.open(settings.run)  # a wrong path need not wait for the imports below
    from rich.console import Console

    from anywidth.cli.console_reporter import ConsoleReporter
    from anywidth.runs.open_run import open_run
    from anywidth.runs.threads import fitting_threads
    from anywidth.runs.widths import choose_any_widths

    console = Console(highlight=False)
    opened = open_run(
        settings.run, device=settings.device, data_root=settings.data_root, reporter=ConsoleReporter(console)
    )
    widths = choose_any_widths(opened.net, settings.widths)
    with fitting_threads(opened.net, opened.settings.data.batch_size):
        new = opened.calibrate_missing(widths)
    if not new:
        console.print("these widths are already calibrated; nothing was written")
        return 0
    opened.net.save(settings.run)
    total = len(opened.net.statistics.configs)
    console.print(f"{settings.run} now contains the batch-norm statistics of {total} narrow widths", soft_wrap=True)
    return 0
