"""Stages of a supernet run: train, calibrate, evaluate, compare, plot."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from anywidth.batchnorm import calibrate
from anywidth.core.errors import MissingExtraError
from anywidth.core.processes import broadcast, first_of_machine_first, share_of
from anywidth.cost import macs, params
from anywidth.data import DataBundle, resident
from anywidth.evaluation import Spectrum, even_widths, spectrum
from anywidth.report import count
from anywidth.runs.corrupt_images import CorruptImages
from anywidth.runs.data import build_data, build_held_out, build_loaders
from anywidth.runs.early_end import early_end
from anywidth.runs.individual import train_individual
from anywidth.runs.metrics_file import MetricsFile
from anywidth.runs.processes import Processes
from anywidth.runs.recipe import average_of, logger_of, loss_of, recipe_of, scores_of
from anywidth.runs.reporter import Reporter
from anywidth.runs.resolve import resolve
from anywidth.runs.run_folder import RunFolder
from anywidth.runs.settings import TrainSettings
from anywidth.runs.supernet import build_supernet
from anywidth.runs.threads import fitting_threads
from anywidth.runs.trained_run import TrainedRun
from anywidth.runs.widths import build_sampler, choose_widths
from anywidth.supernet import Supernet, load
from anywidth.training import soft_cross_entropy
from anywidth.training.epoch_checkpoint import best_of, load_weights, progress
from anywidth.training.fit import fit
from anywidth.training.lightning import SandwichModule

__all__ = ["SupernetRun"]


class SupernetRun:
    """Training of a supernet, in a new folder or resumed.

    Args:
        folder: The run folder.
        settings: The settings of the run.
        device: The device to train on.
        reporter: Receives progress messages.
        processes: The processes that train together.

    Raises:
        AnywidthError: the settings contradict each other; nothing was written.
    """

    def __init__(
        self, folder: RunFolder, settings: TrainSettings, *, device: torch.device, reporter: Reporter,
        processes: Processes,
    ) -> None:  # fmt: skip
        self.folder, self.device, self.reporter, self.processes = folder, device, reporter, processes
        bundle, held_out = build_held_out(settings) if settings.data.hold_out else (build_data(settings), None)
        self.bundle = resident(bundle, self.device)
        trained = broadcast(lambda: self.folder.trained)
        build = partial(
            build_supernet,
            # A resumed training loads its weights from the checkpoint, once an epoch is finished.
            replace(settings.model, init=None, order=None) if trained else settings.model,
            settings.widths,
            input_shape=self.bundle.input_shape,
            classes=len(self.bundle.classes),
            seed=settings.seed,
            reporter=reporter,
        )
        self.net = first_of_machine_first(build) if settings.model.init == "hub" else build()
        self.net.sampler = build_sampler(self.net, settings)
        self.settings = resolve(settings, self.net, self.bundle, processes)
        self.loaders = build_loaders(self.settings, self.bundle)
        self._held_out = 0 if held_out is None else len(held_out)  # type: ignore[arg-type]
        self.held_out = (
            None
            if held_out is None
            else build_loaders(self.settings, resident(replace(self.bundle, test=held_out), self.device)).test
        )
        self.recipe = recipe_of(self.settings, len(self.bundle.classes))
        self.logger = logger_of(self.settings, self.folder.path)
        self.alone = even_widths(self.net, settings.widths.individual) if settings.widths.individual else []
        self.widths = choose_widths(self.net, settings.widths.evaluated, also=tuple(self.alone))
        self.corrupt = CorruptImages(reporter)
        self.stage = "training"

    @property
    def _model(self) -> str:
        """Display name of the model: its name in a library, or its class name."""
        return self.settings.model.name if "/" in self.settings.model.name else type(self.net.model).__name__

    def run(self) -> TrainedRun:
        """Run all stages that are not finished.

        Raises:
            AnywidthError: training failed; saved checkpoints are kept.
            TrainingInterrupted: Ctrl-C was pressed; saved checkpoints are kept.
        """
        with ExitStack() as stack:
            broadcast(lambda: stack.enter_context(self.folder.locked()))
            together = self.processes.batches(self.settings.data.batch_size)
            self.reporter.info(_describe(self.bundle, self._model, self.net, self._held_out) + together)
            broadcast(lambda: self.folder.start(self.settings, self.bundle, command=self.processes.command))
            networks = ["supernet", *(f"individual-{width}" for width in self.alone)]
            stack.enter_context(
                early_end(
                    self.folder, networks, epochs=self.settings.optimization.epochs, stage=lambda: self.stage,
                    processes=self.processes,
                )
            )  # fmt: skip
            return self._work()

    def _work(self) -> TrainedRun:
        self.processes.offset_seed(self.settings.seed)
        with fitting_threads(self.net, self.settings.data.batch_size):
            curve = self._supernet()
            alone = self._individual()
        files = broadcast(lambda: self._finish(curve, alone))
        return TrainedRun(folder=self.folder, spectrum=curve, others=alone, files=files)

    def _supernet(self) -> Spectrum:
        """Train, calibrate, save and evaluate the supernet, or load the stages that an interrupted run finished."""
        file = self.folder.file("spectrum.json")
        if broadcast(file.exists):
            self.net = load(self.folder.path, self.net.model)
            return Spectrum.from_json(file)
        given, widths, steps = self.settings, self.settings.widths, self.settings.optimization
        soft = partial(soft_cross_entropy, temperature=widths.temperature)
        module = SandwichModule(
            self.net, widths=None if self.net.widths else widths.widths_per_step,
            distillation=None if widths.distillation == "none" else soft,
            label_loss_weight=widths.label_loss_weight, loss=loss_of(given),
            graphs=steps.graphs, compiled=steps.compile,
            **self.recipe,
        )  # fmt: skip
        fit(
            module, self.loaders.train, epochs=steps.epochs, device=self.device, precision=steps.precision,
            checkpoint=self.folder.checkpoint("supernet"),
            callbacks=[
                *average_of(given, self.device),
                *scores_of(
                    given, self.net, self.loaders, self.held_out, self.folder, classes=len(self.bundle.classes)
                ),
                *self.reporter.training("training"), MetricsFile(self.folder.file("metrics.csv")),
                self.corrupt.after_epochs(self.loaders.train),
            ],
            logger=self.logger,
        )  # fmt: skip
        if module.skipped:
            self.reporter.warning(f"{module.skipped} steps were skipped because a loss was not finite")
        self._report_weights()
        if steps.keep == "best":
            load_weights(module, self.folder.checkpoint("best"))
        self.stage = "calibrating and evaluating"
        self.net.model.to(self.device)
        # Including width 1: its statistics so far are moving averages, collected while the weights changed.
        calibrated = self.widths if self.net.switches else sorted({*self.widths, 1.0})
        if self.net.nested and not self.net.statistics.needed:
            calibrated = [1.0]  # whose statistics are those of all widths
        for width in self.reporter.calibrating(calibrated):
            calibrate(self.net, self.loaders.calibration, [width], images=share_of(widths.calibration_images))
        broadcast(lambda: self.net.save(self.folder.path))
        curve = spectrum(self.net, self.loaders.test, self.widths, name="one network at every width")
        self.corrupt.warn(self.loaders.test, "test")
        if self.held_out is not None:
            self.corrupt.warn(self.held_out, "held-out")
        broadcast(lambda: (curve.to_csv(self.folder.file("spectrum.csv")), curve.to_json(file)))
        return curve

    def _report_weights(self) -> None:
        """Report early stopping and the epoch of the final weights."""
        steps, done = self.settings.optimization, progress(self.folder.checkpoint("supernet")).epochs
        if steps.early_stop is not None and done < steps.epochs:
            self.reporter.info(
                f"stopped early after epoch {done} of {steps.epochs}: no better score for {steps.early_stop} epochs"
            )
        if steps.keep == "best":
            epoch, score = best_of(self.folder.checkpoint("best"))
            self.reporter.info(f"keeping the weights of epoch {epoch}, held-out accuracy {100 * score:.2f} %")

    def _individual(self) -> Spectrum | None:
        """Train the separate networks that are not finished."""
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
                    checkpoint=self.folder.checkpoint(f"individual-{width}"),
                    progress=self.reporter.training(f"width {width:g} alone"), corrupt=self.corrupt,
                )
            )  # fmt: skip
            alone = Spectrum(rows, "trained alone")
            broadcast(lambda alone=alone: (alone.to_csv(self.folder.file("individual.csv")), alone.to_json(file)))
        return Spectrum(rows, "trained alone")

    def _finish(self, curve: Spectrum, alone: Spectrum | None) -> tuple[str, ...]:
        """Plot, remove the files that only `--resume` needs, and return the names of the results."""
        self.stage = "drawing"
        picture = ("spectrum.png",)
        try:
            kind, _, place = self.settings.data.source.partition(":")
            data = f"{kind}:{Path(place).name}" if place else kind
            title = f"{self._model} on {data}"
            others = {alone.name: alone} if alone else {}
            curve.plot(self.folder.file("spectrum.png"), others=others, title=title)
        except MissingExtraError as error:
            self.reporter.warning(f"picture was not drawn: {error}")
            picture = ()
        self.folder.finish()
        return ("supernet.safetensors", "spectrum.csv", "spectrum.json", *picture, "metrics.csv", "config.yaml")


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
    if net.nested:
        names = ", ".join(f"{width:g}" for width in net.nested)
        return f"\nnested widths {names}; {count(macs(net, dense=True))} MACs at width 1 with zero weights"
    if not net.switches:
        return ""
    more = sum(parameter.numel() for parameter in net.switch_parameters())
    names = ", ".join(f"{width:g}" for width in net.switches)
    return f"\nswitches {names}, adding {count(more)} batch-norm parameters"
