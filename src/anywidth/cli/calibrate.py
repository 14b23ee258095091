"""`anywidth calibrate`: batch-norm statistics of more widths, into the checkpoint of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from anywidth.cli.options import option
from anywidth.cli.train_settings import Device
from anywidth.cli.values import AnyWidths, parse_any_widths

__all__ = ["CalibrateSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class CalibrateSettings:
    """The options of `anywidth calibrate`.

    Attributes:
        run: folder that anywidth train wrote
        widths: widths to calibrate: 0.3,0.55, or how many, evenly spaced
        device: auto, cpu or cuda
        data_root: folder of downloaded data sets, if it has moved since training
    """

    run: Path = field(metadata=option(positional=True, metavar="RUN"))
    widths: AnyWidths = field(metadata=option(parse=parse_any_widths, metavar="W,W,...|N"))
    device: Device = "auto"
    data_root: Path | None = None


def run(settings: CalibrateSettings) -> int:
    """Compute batch-norm statistics of more widths and add them to the checkpoint of a run."""
    from rich.console import Console

    from anywidth.cli.build import choose_any_widths
    from anywidth.cli.open_run import open_run
    from anywidth.cli.threads import fitting_threads

    console = Console(highlight=False)
    opened = open_run(settings.run, device=settings.device, data_root=settings.data_root)
    widths = choose_any_widths(opened.net, settings.widths)
    with fitting_threads(opened.net, opened.settings.batch_size):
        new = opened.calibrate_missing(widths, console)
    if not new:
        console.print("these widths are calibrated already; nothing was written")
        return 0
    opened.net.save(settings.run)
    total = len(opened.net.statistics.configs)
    console.print(f"{settings.run} now holds batch-norm statistics of {total} narrow networks", soft_wrap=True)
    return 0
