"""`anywidth calibrate`: batch-norm statistics of more widths, into the checkpoint of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anywidth.runs.options import option
from anywidth.runs.settings import Device
from anywidth.runs.values import AnyWidths, parse_any_widths

__all__ = ["CalibrateSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings:
    """The options of `anywidth calibrate`."""

    run: Path = option(positional=True, metavar="RUN", help="folder that anywidth train wrote")
    widths: AnyWidths = option(
        parse=parse_any_widths, metavar="W,W,...|N", help="widths to calibrate: 0.3,0.55, or how many, evenly spaced"
    )
    device: Device = option("auto", help="auto, cpu or cuda")
    data_root: Path | None = option(None, help="folder of downloaded data sets, if it has moved since training")


def run(settings: CalibrateSettings) -> int:
    """Compute batch-norm statistics of more widths and add them to the checkpoint of a run."""
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
        console.print("these widths are calibrated already; nothing was written")
        return 0
    opened.net.save(settings.run)
    total = len(opened.net.statistics.configs)
    console.print(f"{settings.run} now holds batch-norm statistics of {total} narrow networks", soft_wrap=True)
    return 0
