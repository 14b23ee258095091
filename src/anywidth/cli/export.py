"""`anywidth export`: write one or several widths of a run to a file that other programs can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option
from anywidth.runs.run_folder import RunFolder
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
    out: Path = option(metavar="FILE", help="file to write; its model card is written next to it")
    width: float | dict[str, float] | None = option(
        None, parse=parse_width, metavar="W", help="width to write: 0.35, or by pattern: layer3.*=0.6+*=0.5"
    )
    budget: str | None = option(
        None,
        metavar="LIMIT",
        help="write the widest calibrated width within this limit: 5ms, 1MB, macs<=20e6, params<=0.5x or latency<=5ms",
    )
    ladder: tuple[float, ...] | None = option(
        None,
        parse=parse_ladder,
        metavar="W,W,...",
        help="write these widths to one ONNX file that stores the weights once: 0.25,0.5,0.75,1.0",
    )
    format: str | None = option(
        None,
        metavar="NAME",
        help="onnx, torch (safetensors) or pt2 (torch.export); by default chosen by the extension of --out",
    )
    int8: bool = option(False, help="quantize the ONNX file to 8-bit integers, calibrated on training images")
    blocked: bool = option(False, help="skip the zero weights of a nested network (formats onnx and pt2)")
    license: str = option("unknown", help="license of the weights for the model card, as an SPDX identifier")
    data_root: Path | None = option(None, help="folder of downloaded datasets, if it moved after training")

    def __post_init__(self) -> None:
        given = [name for name in ("width", "budget", "ladder") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"not {' and '.join(f'--{name}' for name in given)}" if given else "such as --width 0.5"
            raise SettingsError(f"give one of --width, --budget and --ladder, {found}")
        if self.ladder is not None and self.int8:
            raise SettingsError("--int8 writes a single width and does not work with --ladder; leave one of them out")
        if self.blocked and (self.int8 or self.ladder is not None):
            other = "--int8" if self.int8 else "--ladder"
            raise SettingsError(f"--blocked does not work with {other}; leave one of them out")


def run(settings: ExportSettings) -> int:
    """Export one or several widths of a run to ONNX, PyTorch or torch.export, with a model card."""
    RunFolder.open(settings.run)  # a wrong path need not wait for the imports below
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
        raise SettingsError(f"{'--int8' if settings.int8 else '--ladder'} needs --format onnx, not {kind}")
    if settings.out.is_dir():
        raise SettingsError(f"--out {settings.out} is a folder; give a file name")
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
        console.print(f"widest width within {settings.budget}: {net.config(width)}", soft_wrap=True, markup=False)
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
            log("warning", "8-bit weights do not make this file smaller: the network has few weights per layer")
    else:
        written = export(net, width, settings.out, kind, blocked=settings.blocked)
        rows = [row(written, "float32")]
    return rows, written, [rows[-1][-1]]


def _write_int8(opened: OpenRun, width: Width, path: Path) -> Exported:
    from anywidth.export import export_int8

    return export_int8(opened.net, width, path, opened.loaders.calibration)


def _measured(opened: OpenRun, accuracy: Callable[..., float]) -> float | None:
    """Accuracy on the run's test images; if they are missing, a warning and None."""
    from anywidth.cli.messages import log
    from anywidth.core.errors import DataError

    try:
        images = opened.loaders.test
    except DataError as error:
        log("warning", f"accuracy was not measured: {error}")
        return None
    return accuracy(images)


def _check_calibrated(opened: OpenRun, width: Width, run: Path) -> None:
    """Raise an error with the command that calibrates a width, unless the width is calibrated."""
    from anywidth.core.errors import UncalibratedError

    net = opened.net
    config = net.config(width)
    if config == net.config(1.0) or net.statistics.is_usable(config):
        return
    known = ", ".join(str(c) for c in net.statistics.configs if net.statistics.is_current(c)) or "none"
    raise UncalibratedError(
        f"width {config} has no batch-norm statistics; calibrated: {known}, 1. "
        f"Run first: anywidth calibrate {run} --widths {config}"
    )
