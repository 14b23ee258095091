"""`anywidth export`: a width of a run, or several, as a file that other programs run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option
from anywidth.runs.values import parse_ladder, parse_width

if TYPE_CHECKING:
    from rich.console import Console

    from anywidth.export import Exported
    from anywidth.runs.open_run import OpenRun
    from anywidth.widths import Width

__all__ = ["ExportSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """The options of `anywidth export`."""

    run: Path = option(positional=True, metavar="RUN", help="folder that anywidth train wrote")
    out: Path = option(metavar="FILE", help="file to write; a model card is written beside it")
    width: float | dict[str, float] | None = option(
        None, parse=parse_width, metavar="W", help="the width to write: 0.35, or by pattern such as layer3.*=0.6+*=0.5"
    )
    budget: str | None = option(
        None,
        metavar="LIMIT",
        help="write the widest calibrated width within 5ms or 1MB, or with macs<=20e6, params<=0.5x or latency<=5ms",
    )
    ladder: tuple[float, ...] | None = option(
        None,
        parse=parse_ladder,
        metavar="W,W,...",
        help="write several widths into one ONNX file with one copy of the weights: 0.25,0.5,0.75,1.0",
    )
    format: str | None = option(
        None,
        metavar="NAME",
        help="onnx, torch (safetensors) or pt2 (torch.export); by default what the ending of --out means",
    )
    int8: bool = option(False, help="8-bit integers in ONNX, calibrated on training images")
    license: str = option("unknown", help="licence of the weights for the model card, as an SPDX identifier")
    data_root: Path | None = option(None, help="folder of downloaded data sets, if it has moved since training")

    def __post_init__(self) -> None:
        given = [name for name in ("width", "budget", "ladder") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"not {' and '.join(f'--{name}' for name in given)}" if given else "such as --width 0.5"
            raise SettingsError(f"give one of --width, --budget and --ladder, {found}")
        if self.ladder is not None and self.int8:
            raise SettingsError("--int8 goes with one width; leave it or --ladder out")


def run(settings: ExportSettings) -> int:
    """Write a width of a run, or several, as an ONNX, PyTorch or torch.export file, with a model card."""
    from rich.console import Console

    from anywidth.export import CardFacts, format_of, write_card
    from anywidth.export.budget import QUANTITIES
    from anywidth.report import files_table
    from anywidth.runs.open_run import open_run
    from anywidth.runs.threads import fitting_threads
    from anywidth.widths import parse_budget

    console = Console(highlight=False)
    kind = format_of(settings.out, settings.format).name
    if kind != "onnx" and (settings.int8 or settings.ladder):
        raise SettingsError(f"{'--int8' if settings.int8 else '--ladder'} is for --format onnx, not {kind}")
    if settings.out.is_dir():
        raise SettingsError(f"--out {settings.out} is a folder; give the name of a file")
    if settings.budget is not None:
        parse_budget(settings.budget).quantity_among(QUANTITIES)
    opened = open_run(settings.run, device="cpu", data_root=settings.data_root)
    with fitting_threads(opened.net, opened.settings.data.batch_size):
        rows, written, accuracy = _ladder(settings, opened) if settings.ladder else _single(settings, opened, console)
    card = write_card(
        written,
        CardFacts(
            model=type(opened.net.model).__name__,
            data=opened.data.name,
            inputs=opened.data.input_shape,
            classes=opened.data.classes,
            mean=opened.data.mean,
            std=opened.data.std,
            license=settings.license,
            accuracy=accuracy,
            measured_with="ONNX Runtime" if kind == "onnx" else "PyTorch",
            precision="8-bit integers" if settings.int8 else "32-bit floats",
        ),
    )
    console.print(files_table(rows))
    console.print(f"written to {written.path} and {card}", soft_wrap=True)
    return 0


Row = tuple[str, str, int, int, int, float | None]


def _ladder(settings: ExportSettings, opened: OpenRun) -> tuple[list[Row], Exported, list[float | None]]:
    from anywidth.export import evaluate_onnx, export_ladder

    assert settings.ladder is not None
    for width in settings.ladder:
        _check_calibrated(opened, width, settings.run)
    written = export_ladder(opened.net, settings.ladder, settings.out)
    accuracy = [_measured(opened, partial(evaluate_onnx, written.path, width=float(w))) for w in written.widths]
    costs = zip(written.widths, written.macs, written.params, accuracy, strict=True)
    return [(w, "float32", macs, params, written.size, found) for w, macs, params, found in costs], written, accuracy


def _single(
    settings: ExportSettings, opened: OpenRun, console: Console
) -> tuple[list[Row], Exported, list[float | None]]:
    import tempfile

    from anywidth.cli.messages import log
    from anywidth.evaluation import evaluate
    from anywidth.export import evaluate_onnx, export, format_of, widest_within
    from anywidth.widths import parse_budget

    net, kind = opened.net, format_of(settings.out, settings.format).name
    if settings.budget is not None:
        write = partial(_write_int8, opened) if settings.int8 else None
        width: Width = widest_within(net, parse_budget(settings.budget), format=kind, write=write)
        console.print(f"the widest with {settings.budget} is {net.label(width)}", soft_wrap=True, markup=False)
    else:
        assert settings.width is not None
        width = settings.width
    _check_calibrated(opened, width, settings.run)

    def row(written: Exported, precision: str) -> Row:
        measure = partial(evaluate_onnx, written.path) if kind == "onnx" else partial(evaluate, net, width=width)
        accuracy = _measured(opened, measure)
        return written.widths[0], precision, written.macs[0], written.params[0], written.size, accuracy

    if settings.int8:
        with tempfile.TemporaryDirectory() as folder:
            plain = row(export(net, width, Path(folder, "plain.onnx")), "float32")
        written = _write_int8(opened, width, settings.out)
        rows = [plain, row(written, "int8")]
        if written.size >= plain[4]:
            log("warning", "8-bit integers do not make this file smaller: the network has few weights for its layers")
    else:
        written = export(net, width, settings.out, kind)
        rows = [row(written, "float32")]
    return rows, written, [rows[-1][-1]]


def _write_int8(opened: OpenRun, width: Width, path: Path) -> Exported:
    from anywidth.export import export_int8

    return export_int8(opened.net, width, path, opened.loaders.calibration)


def _measured(opened: OpenRun, accuracy: Callable[..., float]) -> float | None:
    """The accuracy on the run's test images; None, and a warning, if they are not there."""
    from anywidth.cli.messages import log
    from anywidth.core.errors import DataError

    try:
        images = opened.loaders.test
    except DataError as error:
        log("warning", f"the accuracy is not measured: {error}")
        return None
    return accuracy(images)


def _check_calibrated(opened: OpenRun, width: Width, run: Path) -> None:
    """Say by which command a width is calibrated, where it is not."""
    from anywidth.core.errors import UncalibratedError

    net = opened.net
    config = net.config(width)
    if config == net.config(1.0) or net.statistics.is_usable(config):
        return
    label = net.label(width)
    known = ", ".join(net.label(c) for c in net.statistics.configs if net.statistics.is_current(c)) or "none"
    asked = "+".join(f"{p}={w:g}" for p, w in width.items()) if isinstance(width, dict) else label
    raise UncalibratedError(
        f"width {label} has no batch-norm statistics; calibrated: {known}, 1. "
        f"First run: anywidth calibrate {run} --widths {asked}"
    )
