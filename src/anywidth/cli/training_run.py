"""The stages of a training run: train, calibrate, evaluate, compare, draw."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from anywidth.batchnorm import calibrate
from anywidth.cli.build import build_data, build_held_out, build_loaders, build_supernet, choose_widths, resolve
from anywidth.cli.corrupt_images import CorruptImages
from anywidth.cli.device import pick_device
from anywidth.cli.early_end import exit_code
from anywidth.cli.individual import train_individual
from anywidth.cli.messages import log
from anywidth.cli.metrics_file import MetricsFile
from anywidth.cli.options import SettingsError, given_options
from anywidth.cli.processes import Processes
from anywidth.cli.progress_bar import ProgressBar
from anywidth.cli.recipe import average_of, logger_of, loss_of, recipe_of, scores_of
from anywidth.cli.run_folder import RunFolder
from anywidth.cli.threads import fitting_threads
from anywidth.cli.train_settings import TrainSettings
from anywidth.core.errors import MissingExtraError, TrainingError
from anywidth.core.processes import broadcast, first_of_machine_first, share_of
from anywidth.cost import macs, params
from anywidth.data import DataBundle, resident
from anywidth.evaluation import Spectrum, even_widths, spectrum
from anywidth.report import count, seconds, spectrum_table
from anywidth.supernet import Supernet, load
from anywidth.training import soft_cross_entropy
from anywidth.training.epoch_checkpoint import best_of, finished_epochs, load_weights
from anywidth.training.fit import fit
from anywidth.training.lightning import SandwichModule
from anywidth.widths import WidthSampler

__all__ = ["TrainingRun", "open_or_create"]


class TrainingRun:
    """One call of `anywidth train`, in a new folder or going on in an interrupted one.

    Raises:
        AnywidthError: the settings do not fit together, or the folder is in the way; nothing was written.
    """

    def __init__(self, settings: TrainSettings, console: Console, processes: Processes) -> None:
        self.console = console
        self.processes = processes
        self.began = time.perf_counter()
        self.device = pick_device(settings.device, settings.precision, graphs=settings.graphs, processes=processes)
        self.folder, given = broadcast(lambda: open_or_create(settings))
        bundle, held_out = build_held_out(given) if given.hold_out else (build_data(given), None)
        self.bundle = resident(bundle, self.device)
        trained = broadcast(lambda: self.folder.trained)
        build = partial(
            build_supernet,
            given.model,
            input_shape=self.bundle.input_shape,
            classes=len(self.bundle.classes),
            seed=given.seed,
            divisor=given.divisor,
            min_width=given.min_width,
            frozen=given.frozen,
            switches=given.switches,
            input_rescaling=given.input_rescaling,
            width_mult=given.width_mult,
            # A training that goes on has its weights from its checkpoint, if it finished an epoch.
            init=None if trained else given.init,
            order="none" if given.init is None or trained else given.order or "l1",
        )
        self.net = first_of_machine_first(build) if given.init == "hub" else build()
        groups = [group.name for group in self.net.analysis.elastic] if given.random == "nonuniform" else []
        ladder = even_widths(self.net, given.rungs) if given.rungs else []
        self.net.sampler = WidthSampler(
            self.net.min_width, seed=given.seed, ends=given.ends, groups=groups, ladder=ladder
        )
        self.settings = resolve(given, self.net, self.bundle, processes)
        self.loaders = build_loaders(self.settings, self.bundle)
        self._held_out = 0 if held_out is None else len(held_out)  # type: ignore[arg-type]
        self.held_out = (
            None
            if held_out is None
            else build_loaders(self.settings, resident(replace(self.bundle, test=held_out), self.device)).test
        )
        self.recipe = recipe_of(self.settings, len(self.bundle.classes))
        self.logger = logger_of(self.settings, self.folder.path)
        self.alone = even_widths(self.net, given.individual) if given.individual else []
        self.widths = choose_widths(self.net, given.widths, also=tuple(self.alone))
        self.corrupt = CorruptImages()
        self.stage = "training"

    @property
    def _model(self) -> str:
        """What people call the model: a library's name of it, or the name of our class."""
        return self.settings.model if "/" in self.settings.model else type(self.net.model).__name__

    def run(self) -> int:
        """Run all stages and return the exit code.

        Raises:
            AnywidthError: training cannot go on; what was saved is kept.
        """
        together = self.processes.batches(self.settings.batch_size)
        self.console.print(_describe(self.bundle, self._model, self.net, self._held_out) + together, soft_wrap=True)
        broadcast(lambda: self.folder.start(self.settings, self.bundle, command=self.processes.command))
        networks = ["supernet", *(f"individual-{width:g}" for width in self.alone)]
        return exit_code(
            self._work, self.folder, networks, epochs=self.settings.epochs, stage=lambda: self.stage,
            processes=self.processes,
        )  # fmt: skip

    def _work(self) -> None:
        self.processes.draw_apart(self.settings.seed)
        with fitting_threads(self.net, self.settings.batch_size):
            curve = self._supernet()
            alone = self._individual()
        broadcast(lambda: self._write(curve, alone))

    def _supernet(self) -> Spectrum:
        """Train, calibrate, save and evaluate the supernet, or read what an interrupted run has of it."""
        file = self.folder.file("spectrum.json")
        if broadcast(file.exists):
            self.net = load(self.folder.path, self.net.model)
            return Spectrum.from_json(file)
        given = self.settings
        soft = partial(soft_cross_entropy, temperature=given.temperature)
        module = SandwichModule(
            self.net, widths=None if self.net.switches else given.samples,
            distillation=None if given.distillation == "none" else soft, labels=given.labels, loss=loss_of(given),
            graphs=given.graphs, compiled=given.compile,
            **self.recipe,
        )  # fmt: skip
        fit(
            module, self.loaders.train, epochs=given.epochs, device=self.device, precision=given.precision,
            checkpoint=self.folder.checkpoint("supernet"),
            callbacks=[
                *average_of(given, self.device),
                *scores_of(
                    given, self.net, self.loaders, self.held_out, self.folder, classes=len(self.bundle.classes)
                ),
                ProgressBar(self.console, "training"), MetricsFile(self.folder.file("metrics.csv")),
                self.corrupt.after_epochs(self.loaders.train),
            ],
            logger=self.logger,
        )  # fmt: skip
        if module.skipped:
            log("warning", f"{module.skipped} steps were left out, because a loss was not finite")
        self._tell_end()
        if given.keep == "best":
            load_weights(module, self.folder.checkpoint("best"))
        self.stage = "calibrating and evaluating"
        self.net.model.to(self.device)
        quiet = not self.console.is_terminal
        # The full width, too: what it has are moving averages, of the weights as they were on the way.
        widths = self.widths if self.net.switches else sorted({*self.widths, 1.0})
        for width in track(widths, "calibrating", console=self.console, transient=True, disable=quiet):
            calibrate(self.net, self.loaders.calibration, [width], images=share_of(given.calibration_images))
        broadcast(lambda: self.net.save(self.folder.path))
        curve = spectrum(self.net, self.loaders.test, self.widths, name="one network at every width")
        self.corrupt.tell(self.loaders.test, "test")
        if self.held_out is not None:
            self.corrupt.tell(self.held_out, "held-out")
        broadcast(lambda: (curve.to_csv(self.folder.file("spectrum.csv")), curve.to_json(file)))
        return curve

    def _tell_end(self) -> None:
        """Say what the scores have decided."""
        given, done = self.settings, finished_epochs(self.folder.checkpoint("supernet"))
        if given.early_stop is not None and done < given.epochs:
            self.console.print(
                f"stopped early, after epoch {done} of {given.epochs}: the score has not risen in {given.early_stop}"
            )
        if given.keep == "best":
            epoch, score = best_of(self.folder.checkpoint("best"))
            self.console.print(f"the weights are those of epoch {epoch}, held-out accuracy {100 * score:.2f} %")

    def _individual(self) -> Spectrum | None:
        """Train the separate networks that are not done yet."""
        if not self.alone:
            return None
        file = self.folder.file("individual.json")
        rows = broadcast(lambda: list(Spectrum.from_json(file)) if file.exists() else [])
        done = {row.width for row in rows}
        for width in self.alone:
            if width in done:
                continue
            self.stage = f"training the separate network of width {width:g}"
            rows.append(
                train_individual(
                    self.net, width, self.settings, self.bundle, device=self.device,
                    checkpoint=self.folder.checkpoint(f"individual-{width:g}"),
                    progress=ProgressBar(self.console, f"width {width:g} alone"), corrupt=self.corrupt,
                )
            )  # fmt: skip
            alone = Spectrum(rows, "trained alone")
            broadcast(lambda alone=alone: (alone.to_csv(self.folder.file("individual.csv")), alone.to_json(file)))
        return Spectrum(rows, "trained alone")

    def _write(self, curve: Spectrum, alone: Spectrum | None) -> None:
        """Draw, print and finish."""
        self.stage = "drawing"
        names = "supernet.safetensors, spectrum.csv, spectrum.json, spectrum.png, metrics.csv and config.yaml"
        others = {alone.name: alone} if alone else {}
        try:
            kind, _, place = self.settings.data.partition(":")
            data = f"{kind}:{Path(place).name}" if place else kind
            title = f"{self._model} on {data}"
            curve.plot(self.folder.file("spectrum.png"), others=others, title=title)
        except MissingExtraError as error:
            log("warning", f"no picture was drawn: {error}")
            names = names.replace(" spectrum.png,", "")
        self.folder.finish()
        self.console.print(spectrum_table(curve, alone))
        took = seconds(time.perf_counter() - self.began)
        self.console.print(f"results after {took} in {self.folder.path}: {names}", soft_wrap=True)


def open_or_create(settings: TrainSettings) -> tuple[RunFolder, TrainSettings]:
    """Folder and settings of a new run, or of the run to resume."""
    if settings.resume is None:
        return RunFolder.new(settings), settings
    folder = RunFolder.open(settings.resume)
    return folder, _resumed(folder, settings)


def _resumed(folder: RunFolder, settings: TrainSettings) -> TrainSettings:
    """The settings of an interrupted run, on the device that is asked for."""
    if folder.complete:
        raise TrainingError(
            f"{folder.path} is complete, there is nothing to resume; start another run, from its weights with "
            f"--init {folder.path} --order none"
        )
    if given_options(settings) - {"resume", "device"}:
        raise SettingsError("--resume takes the options of the run; leave out all others except --device")
    saved = folder.settings
    return saved if settings.device == "auto" else replace(saved, device=settings.device)


def _describe(bundle: DataBundle, model: str, net: Supernet, held_out: int) -> str:
    train, test = len(bundle.train), len(bundle.test)  # type: ignore[arg-type]
    kept = f", {held_out:,} held-out" if held_out else ""
    shape = "x".join(map(str, bundle.input_shape))
    narrow, elastic = net.min_width, len(net.analysis.elastic)
    return (
        f"{bundle.name}: {train:,} training{kept} and {test:,} test images of {shape}, {len(bundle.classes)} classes\n"
        f"{model}: {count(macs(net))} MACs and {count(params(net))} parameters at width 1, "
        f"{count(macs(net, narrow))} and {count(params(net, narrow))} at {narrow:g}; "
        f"{elastic} of {len(net.groups)} channel groups elastic{_describe_switches(net)}"
    )


def _describe_switches(net: Supernet) -> str:
    if not net.switches:
        return ""
    more = sum(parameter.numel() for parameter in net.switch_parameters())
    names = ", ".join(f"{width:g}" for width in net.switches)
    return f"\nswitches {names}, with {count(more)} parameters of batch norms of their own"
