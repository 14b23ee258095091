"""`anywidth reproduce`: run an experiment of the papers again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option
from anywidth.runs.settings import Device

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ReproduceSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """The options of `anywidth reproduce`."""

    name: str | None = option(None, positional=True, metavar="NAME", help="name of the experiment; --list prints all")
    list: bool = option(False, help="list all experiments and what they compare")
    data: str | None = option(
        None, help="digits, fashion-mnist or another dataset of anywidth train; by default the one of --scale"
    )
    scale: Literal["digits", "cifar", "full"] = option(
        "digits", metavar="SCALE",
        help="digits: minutes; cifar: CIFAR-100 at 16x16 pixels, ResNet-8, hours on two cores; full: CIFAR-100, "
        "ResNet-18, 100 epochs on a GPU",
    )  # fmt: skip
    model: str | None = option(None, help="model to train instead, such as mobilenet_v2")
    epochs: int | None = option(
        None, help="passes over the training images per network; by default from config.yaml of the experiment"
    )
    seeds: int | None = option(None, help="number of seeds for each setup compared")
    data_root: Path = option(Path("data"), help="folder of downloaded datasets")
    networks: Path | None = option(
        None, metavar="DIR",
        help="folder of networks that experiments share; by default runs/reproduce/networks, or none with --out",
    )  # fmt: skip
    jobs: int | None = option(
        None, help="networks trained in parallel, one core each; by default one per core, or 1 on a GPU"
    )
    device: Device = option(
        "auto", help="auto, cpu or cuda; auto uses a GPU for --scale full if there is one, otherwise the CPU"
    )
    out: Path | None = option(
        None, metavar="DIR", help="folder to write; by default runs/reproduce/NAME-SCALE, or NAME-DATA"
    )

    def __post_init__(self) -> None:
        if not self.list and self.name is None:
            raise SettingsError("no experiment was given; name one, or print all of them with --list")
        for name in ("epochs", "seeds", "jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"--{name} is {value}; give at least 1")


def run(settings: ReproduceSettings) -> int:
    """Run an experiment of the papers again and write its table, verdicts, picture and JSON."""
    from rich.console import Console

    console = Console(highlight=False)
    if settings.list:
        _list(console)
        return 0
    return _run(settings, console)


def _list(console: Console) -> None:
    from rich import box
    from rich.table import Table

    from anywidth.reproduce import experiment_names, load_experiment

    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for column in ("name", "what it compares", "from"):
        table.add_column(column)
    for name in experiment_names():
        experiment = load_experiment(name)
        table.add_row(name, experiment.title, experiment.paper)
    console.print(table)


def _run(settings: ReproduceSettings, console: Console) -> int:
    import os

    from rich.markdown import Markdown

    from anywidth.cli.messages import log
    from anywidth.core.errors import MissingExtraError
    from anywidth.core.files import write_atomically
    from anywidth.reproduce import load_experiment, run_experiment
    from anywidth.reproduce.page import page, update_page
    from anywidth.reproduce.picture import draw
    from anywidth.reproduce.runner import finish
    from anywidth.runs.device import pick_device

    assert settings.name is not None
    experiment = load_experiment(settings.name)
    setup = _setup(settings, experiment)
    device = pick_device("cpu" if settings.device == "auto" and settings.scale != "full" else settings.device)
    jobs = settings.jobs or (1 if device.type == "cuda" else os.cpu_count() or 1)
    folder = settings.out or Path("runs", "reproduce", f"{settings.name}-{_where(settings, setup)}")
    if (folder / "result.json").exists() and not (folder / "cells").exists():
        raise SettingsError(f"{folder} already contains these results; choose another folder with --out DIR")
    cells = len(experiment.cells) * setup.seeds
    console.print(
        f"{experiment.title}\n{setup.data}, {setup.model}, {setup.epochs} epochs, {setup.seeds} seeds: {cells} cells, "
        f"{jobs} at a time; finished cells are kept in {folder}", soft_wrap=True,
    )  # fmt: skip
    try:
        with _Progress(console, cells) as progress:
            record = run_experiment(
                settings.name,
                setup,
                folder,
                device=device,
                data_root=settings.data_root,
                jobs=jobs,
                networks=settings.networks or (None if settings.out else folder.parent / "networks"),
                progress=progress,
            )
    except KeyboardInterrupt:
        log("interrupted", f"finished cells are kept in {folder}; run the same command to continue")
        return 130
    record.to_json(folder / "result.json", experiment)
    text = page(experiment, record)
    names = "result.json, README.md"
    if not update_page(folder / "README.md", text):
        names = "result.json, result.md"
        whole = f"# {experiment.title}\n\n![{experiment.title}](picture.png)\n\n{text}"
        write_atomically(folder / "result.md", lambda path: path.write_text(whole))
    try:
        draw(experiment, record.results, folder / "picture.png", note=_note(record.setup, setup.seeds))
        names += ", picture.png"
        for name, picture in experiment.pictures.items():
            picture(record.results, folder / name)
            names += f", {name}"
    except MissingExtraError as error:
        log("warning", f"picture was not drawn: {error}")
    finish(folder)
    console.print(Markdown(text))
    console.print(f"results in {folder}: {names}", soft_wrap=True)
    return 0


def _setup(settings: ReproduceSettings, experiment: Any) -> Any:
    from anywidth.data.load import CROP_FLIP

    if settings.scale != "digits":
        base = experiment.setup(settings.scale).changed(data=settings.data)
        if base.data.partition(":")[0] not in CROP_FLIP:
            base = base.changed(augment="auto")
    elif settings.data in (None, "digits"):
        base = experiment.setup("digits")
    else:
        base = experiment.setup("fashion-mnist").changed(data=settings.data)
    changes = {"model": settings.model, "epochs": settings.epochs, "seeds": settings.seeds}
    if settings.epochs is not None:
        changes["warmup_epochs"] = min(base.warmup_epochs, settings.epochs / 2)
    return base.changed(**changes)


def _where(settings: ReproduceSettings, setup: Any) -> str:
    data = Path(setup.data.partition(":")[2] or setup.data).stem
    if settings.scale == "digits":
        return data
    return settings.scale if settings.data is None else f"{settings.scale}-{data}"


def _note(setup: Any, seeds: int) -> str:
    from anywidth.reproduce.page import images_of

    return (
        f"data {images_of(setup)}, model {setup['model']}, {setup['epochs']} epochs; "
        f"mean and standard deviation over {seeds} seeds"
    )


class _Progress:
    """Progress bar over cells in a terminal, one line per cell elsewhere."""

    def __init__(self, console: Console, total: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True,
        )  # fmt: skip
        self._task = self._bar.add_task("running", total=total)

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, name: str, done: int, total: int) -> None:
        """Report a finished cell."""
        self._bar.update(self._task, completed=done, description=name)
        if not self.console.is_terminal:
            self.console.print(f"{done}/{total}: {name}", soft_wrap=True)
