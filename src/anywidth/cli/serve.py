"""`anywidth serve`: serve a run over HTTP, at the width that the load allows."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option
from anywidth.runs.run_folder import RunFolder
from anywidth.runs.settings import Device
from anywidth.runs.values import Widths, parse_widths

if TYPE_CHECKING:
    from rich.console import Console

    from anywidth.runs.dataset_info import DatasetInfo
    from anywidth.runs.open_run import OpenRun
    from anywidth.serving import ImageReader, Ladder, Limits, Served
    from anywidth.widths import WidthConfig

__all__ = ["ServeSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """The options of `anywidth serve`."""

    run: Path = option(positional=True, metavar="RUN", help="folder that anywidth train wrote")
    slo_ms: float = option(
        50.0, metavar="MS", help="target latency in milliseconds, from a request's arrival to its answer"
    )
    load: float = option(
        0.85,
        metavar="SHARE",
        help="highest average share of time that the network runs, at most 1; less saves energy at narrower widths",
    )
    widths: Widths | None = option(
        None,
        parse=parse_widths,
        metavar="W,W,...|N",
        help="widths to choose from: 0.25,0.5,1.0, or a number of widths; by default the run's widths",
    )
    engine: Literal["torch", "onnx"] = option(
        "torch", help="torch, on GPU or CPU, or onnx, ONNX Runtime on the CPU; both keep one copy of the weights"
    )
    refine: bool = option(
        False,
        help="refine answers of a nested network from narrow to wide; answer with the width reached in time",
    )
    name: str | None = option(None, help="model name in URLs; by default the run's model")
    host: str = option("127.0.0.1", metavar="ADDRESS", help="address to listen on; by default this machine only")
    port: int = option(8000, help="port to listen on; 0 picks a free port")
    max_batch: int = option(32, help="maximum samples per batch and per request")
    max_queue: int = option(256, help="maximum number of waiting requests")
    max_body: float = option(16.0, help="maximum size of a request body, in megabytes")
    max_pixels: float = option(16.0, help="maximum size of an image file, in megapixels")
    token_file: Path | None = option(None, metavar="FILE", help="file with the bearer token that requests must carry")
    log: Path | None = option(None, metavar="FILE", help="file to append every governor decision to")
    device: Device = option("auto", help="auto, cpu or cuda")
    data_root: Path | None = option(None, help="folder of downloaded datasets, if it moved after training")

    def __post_init__(self) -> None:
        for name in ("slo_ms", "max_batch", "max_queue", "max_body", "max_pixels"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give a number above 0")
        if self.refine and self.engine != "torch":
            raise SettingsError(f"--refine needs --engine torch; {self.engine} computes every width from the input")
        if not 0 < self.load <= 1:
            raise SettingsError(f"--load is {self.load}; give a share above 0 and at most 1")
        if not 0 <= self.port < 2**16:
            raise SettingsError(f"--port is {self.port}; give a port from 0 to 65535")


def run(settings: ServeSettings) -> int:
    """Serve a run over HTTP (Open Inference Protocol) at the widest width that meets the target latency."""
    RunFolder.open(settings.run)  # a wrong path need not wait for the imports below
    from rich.console import Console

    from anywidth.cli.console_reporter import ConsoleReporter
    from anywidth.cli.messages import log
    from anywidth.core.extras import from_extra
    from anywidth.runs.open_run import open_run
    from anywidth.runs.threads import fitting_threads
    from anywidth.serving import Governor, GovernorSettings, Limits, kept_memory, measure_ladder

    with from_extra("serve", "serving needs fastapi, uvicorn and prometheus-client"):
        import uvicorn as _  # noqa: F401 - the server imports it when it starts

        from anywidth.serving.app import create_app
        from anywidth.serving.http_server import serve_until_stopped
        from anywidth.serving.service import Service

    console = Console(highlight=False)
    token = _token(settings.token_file)
    if settings.log is not None:
        _log_to(settings.log)
    if token is None and not _is_loopback(settings.host):
        log(
            "warning",
            f"anyone who reaches {settings.host} can use this server; require a token: --token-file FILE",
        )
    limits = Limits(
        body=int(settings.max_body * 1e6),
        rows=settings.max_batch,
        pixels=int(settings.max_pixels * 1e6),
        queue=settings.max_queue,
    )
    device = "cpu" if settings.engine == "onnx" else settings.device
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept_memory())
        opened = open_run(settings.run, device=device, data_root=settings.data_root, reporter=ConsoleReporter(console))
        stack.enter_context(fitting_threads(opened.net, settings.max_batch))
        served = _served(settings, opened, limits, console)
        console.print(f"measuring {len(served.points)} widths at batch sizes 1 to {settings.max_batch}", soft_wrap=True)
        governor = Governor(
            measure_ladder(served.ladder, rows=settings.max_batch),
            GovernorSettings(target=settings.slo_ms / 1e3, load=settings.load, max_rows=settings.max_batch),
        )
        for width in governor.widths:
            took = 1e3 * governor.times.seconds(width, 1)
            console.print(f"width {width:g}: {took:.2f} ms, {governor.capacity(width):.0f} per second", soft_wrap=True)
        service = Service(served, governor, limits)
        serve_until_stopped(
            create_app(service, token=token),
            host=settings.host,
            port=settings.port,
            limits=limits,
            started=lambda address: console.print(f"{served.name} is available at {address}", soft_wrap=True),
        )
    console.print(f"stopped after answering {service.answered} requests", soft_wrap=True)
    return 0


def _served(settings: ServeSettings, opened: OpenRun, limits: Limits, console: Console) -> Served:
    from anywidth.cost import macs, params
    from anywidth.runs.widths import choose_widths
    from anywidth.serving import Point, Served

    net = opened.net
    widths = choose_widths(net, opened.settings.widths.evaluated if settings.widths is None else settings.widths)
    opened.calibrate_missing(widths)
    accuracy = _accuracy(opened)
    return Served(
        name=settings.name or opened.settings.model.name.replace("/", "-"),
        ladder=_ladder(settings, opened, widths),
        points=[
            Point(width=w, macs=macs(net, w), params=params(net, w), accuracy=accuracy.get(net.config(w)))
            for w in widths
        ],
        classes=opened.data.classes,
        reader=_reader(opened.data, limits),
    )


def _ladder(settings: ServeSettings, opened: OpenRun, widths: list[float]) -> Ladder:
    import tempfile

    from anywidth.export import export_ladder
    from anywidth.serving import Ladder

    if settings.engine == "torch":
        if settings.refine and not opened.net.nested:
            raise SettingsError(f"--refine needs a nested network, which {settings.run} is not; train with --nested")
        return Ladder.share(opened.net, widths, refine=settings.refine)
    with tempfile.TemporaryDirectory() as folder:
        return Ladder.load(export_ladder(opened.net, widths, Path(folder, "ladder.onnx")).path, widths)


def _accuracy(opened: OpenRun) -> dict[WidthConfig, float]:
    """Accuracy that the run measured, by width config."""
    from anywidth.evaluation import Spectrum

    file = opened.folder.file("spectrum.json")
    if not file.exists():
        return {}
    curve = Spectrum.from_json(file)
    return {opened.net.config(row.width): row.score for row in curve if isinstance(row.width, float)}


def _reader(data: DatasetInfo, limits: Limits) -> ImageReader | None:
    """Reader that prepares image files like the run's test images; None if their pixel range is unknown."""
    from anywidth.serving import ImageReader

    if data.mean is None or data.std is None:
        return None
    return ImageReader(shape=data.input_shape, mean=data.mean, std=data.std, pixels=limits.pixels)


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read --token-file {file}: {error}") from error
    if not token or not token.isascii() or not token.isprintable():
        raise SettingsError(f"--token-file {file} must contain one line of printable ASCII, such as 32 random letters")
    return token


def _log_to(file: Path) -> None:
    """Send the log of `anywidth.serving` to a file for the rest of this process."""
    try:
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"cannot write --log {file}: {error}") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("anywidth.serving")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
