"""The tools of an experiment's cell: data, networks, training and spectra, all determined by one seed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anywidth import __version__
from anywidth.batchnorm import calibrate
from anywidth.core.files import write_atomically
from anywidth.data import DataBundle, Loaders, resident
from anywidth.data.fingerprint import fingerprint
from anywidth.data.subset import fewer_images
from anywidth.evaluation import even_widths, spectrum
from anywidth.reproduce.results import Curve, Point
from anywidth.reproduce.setup import Setup
from anywidth.runs.corrupt_images import CorruptImages
from anywidth.runs.data import build_data, build_loaders
from anywidth.runs.individual import train_individual
from anywidth.runs.recipe import recipe_of
from anywidth.runs.reporter import Reporter
from anywidth.runs.supernet import build_supernet
from anywidth.runs.widths import build_sampler
from anywidth.supernet import Supernet
from anywidth.training import soft_cross_entropy
from anywidth.training.fit import fit
from anywidth.training.lightning import PlainModule, SandwichModule
from anywidth.training.recipe import RecipeOptions
from anywidth.widths import Ends, Width, WidthSampler

__all__ = ["Context"]


class Context:
    """One seed of one experiment.

    Every network starts from the weights of the seed and sees the batches of the seed, so that arms differ only in what
    the experiment compares.

    Args:
        setup: The settings that all arms share.
        seed: Random seed of weights, widths, batches and split.
        device: Device to train on.
        data_root: Folder of downloaded datasets.
        folder: Folder for the states to resume from.
        networks: Folder of the networks that several experiments train alike; by default `folder`.

    Attributes:
        reused_seconds: Processor time of the trainings that had been finished before.
    """

    def __init__(
        self,
        setup: Setup,
        seed: int,
        *,
        device: torch.device,
        data_root: Path,
        folder: Path,
        networks: Path | None = None,
    ) -> None:
        self.setup, self.seed, self.device, self.folder = setup, seed, device, folder
        self.networks = (networks or folder).resolve()
        self.reused_seconds = 0.0
        self.settings = setup.train_settings(seed, data_root=data_root)

    @cached_property
    def bundle(self) -> DataBundle:
        """The dataset; if it has no fixed split, the split depends on the seed."""
        setup, bundle = self.setup, build_data(self.settings)
        if setup.train_images is not None or setup.test_images is not None:
            bundle = fewer_images(bundle, train=setup.train_images, test=setup.test_images, seed=self.seed)
        return resident(bundle, self.device)

    def loaders(self) -> Loaders:
        """New loaders, whose batches depend only on the seed and the epoch."""
        return build_loaders(self.settings, self.bundle)

    @cached_property
    def structure(self) -> Supernet:
        """A supernet that is never trained, for its widths and channels."""
        return self.supernet()

    def supernet(
        self,
        *,
        min_width: float | None = None,
        switches: Sequence[float] | None = None,
        switch_affine: bool = True,
        nested: Sequence[float] | None = None,
        width_mult: float = 1.0,
    ) -> Supernet:
        """A supernet with new weights from the seed, analysed on a test image.

        Args:
            min_width: The narrowest width; by default the model's.
            switches: The only widths, each with separate batch norms.
            switch_affine: Whether these batch norms have separate weights and biases, in addition to statistics.
            nested: The only widths of a nested network.
            width_mult: Widens the model by this factor.
        """
        images, _ = next(iter(self.loaders().test))
        with torch.random.fork_rng(devices=[]):
            return build_supernet(
                replace(self.settings.model, width_mult=width_mult),
                replace(
                    self.settings.widths,
                    min_width=min_width,
                    switches=None if switches is None else tuple(switches),
                    nested=None if nested is None else tuple(nested),
                    width_grid=None,  # belongs to the sampler
                ),
                input_shape=self.bundle.input_shape,
                classes=len(self.bundle.classes),
                seed=self.seed,
                example=images[:1].cpu(),
                switch_affine=switch_affine,
            )

    def train(
        self,
        net: Supernet,
        name: str | Path,
        *,
        always_include: Ends = "both",
        widths_per_step: int | None = None,
        nonuniform: bool = False,
        sampler: WidthSampler | None = None,
        epochs: int | None = None,
        **options: Any,
    ) -> Supernet:
        """Train a supernet by the sandwich rule and return it; options are those of `SandwichModule`.

        Args:
            net: The supernet.
            name: Name of its training state, different in every call of a cell; or a path without ending.
            always_include: The widths to include in every step; see `WidthSampler`.
            widths_per_step: Widths per step; by default the setup's number, or all switches.
            nonuniform: Whether to draw a separate random width for every group.
            sampler: Draws the widths instead.
            epochs: Passes over the training images; by default the setup's number.
            options: Options of `SandwichModule`, such as `distillation`, `label_loss_weight` or `loss`.
        """
        drawn = replace(
            self.settings.widths,
            always_include=always_include,
            width_sampling="nonuniform" if nonuniform else "uniform",
            width_grid=None if nonuniform else self.setup.width_grid,
        )
        net.sampler = sampler or build_sampler(net, replace(self.settings, widths=drawn))
        if not net.switches and not net.nested:
            options.setdefault("widths", widths_per_step or self.setup.widths_per_step)
        if self.setup.graphs and self.device.type == "cuda" and not (net.nested or nonuniform or sampler):
            options.setdefault("graphs", True)
        self._fit(SandwichModule(net, **self._recipe(), **options), name, epochs)
        net.model.to(self.device)
        return net

    def us_net(self) -> Supernet:
        """The US-Net of the setup, trained by the sandwich rule; all experiments of the setup share it."""
        net = self.supernet()
        return self.train(net, self._shared("us-net"))

    def nested_net(
        self, widths: Sequence[float], *, width_mult: float = 1.0, epochs: int | None = None, **options: Any
    ) -> Supernet:
        """A nested network of these widths, trained; all experiments of the setup share it.

        Args:
            widths: The widths of the shells.
            width_mult: Widens the model by this factor.
            epochs: Passes over the training images; by default the setup's number.
            options: Numbers among the options of `SandwichModule`, or `distillation=None`.
        """
        net = self.supernet(nested=widths, width_mult=width_mult)
        epochs = epochs or self.setup.epochs
        return self.train(
            net, self._shared("nested", widths=list(widths), width_mult=width_mult, epochs=epochs, **options),
            epochs=epochs, **options,
        )  # fmt: skip

    def alone(self, width: float) -> Curve:
        """The result of a network of the setup at one width, trained alone; all experiments of the setup share it."""
        return self.train_alone(self.structure, width, name=self._shared("alone", width=width))

    def train_plain(self, model: nn.Module, name: str) -> nn.Module:
        """Train a network at full width only, on the labels, and return it."""
        self._fit(PlainModule(model, **self._recipe()), name, None)
        return model.to(self.device)

    def train_alone(
        self,
        net: Supernet,
        width: Width,
        *,
        x: float | str | None = None,
        name: str | Path | None = None,
        smoothing: float = 0,
    ) -> Curve:
        """The result of a network like the supernet's at one width, trained alone and scored like a supernet.

        Args:
            net: The supernet; only its structure is used.
            width: As in `Supernet.config`.
            x: The x of the point; by default the width.
            name: Name of its training state, different in every call of a cell; or a path without ending.
            smoothing: Share of each label to spread over all classes.
        """
        x = x if x is not None else width if isinstance(width, float) else str(net.config(width))
        steps = replace(self.settings.optimization, label_smoothing=smoothing)
        name = name or f"alone-{x}"
        with self._timed(name):
            row = train_individual(
                net, width, replace(self.settings, optimization=steps), self.bundle, device=self.device,
                checkpoint=self._checkpoint(name), corrupt=CorruptImages(Reporter()),
            )  # fmt: skip
        return [Point(x=x, y=row.score, macs=row.macs)]

    def widths(self, net: Supernet) -> list[float]:
        """The widths of a spectrum: the setup's number of widths, or all switches or nested widths."""
        return even_widths(net, self.setup.widths)

    def spectrum(self, net: Supernet, widths: Sequence[Width] | Mapping[str, Width] | None = None) -> Curve:
        """Calibrate a supernet at some widths (or widths by name), by default `widths()`, and score it.

        Networks with switches and nested networks already have their statistics.
        """
        chosen = self.widths(net) if widths is None else widths
        if not net.switches and not net.nested:
            calibrate(net, self.loaders().calibration, list(chosen.values() if isinstance(chosen, Mapping) else chosen))
        return self.score(net, chosen)

    def score(self, net: Supernet, widths: Sequence[Width] | Mapping[str, Width]) -> Curve:
        """Accuracy and MACs of a supernet whose statistics at these widths are up to date."""
        return [Point(x=r.width, y=r.score, macs=r.macs) for r in spectrum(net, self.loaders().test, widths)]

    def soft(self, temperature: float = 1.0) -> Any:
        """In-place distillation at a temperature, for `distillation=`."""
        return partial(soft_cross_entropy, temperature=temperature)

    def _recipe(self) -> RecipeOptions:
        return recipe_of(self.settings, len(self.bundle.classes))

    def _shared(self, kind: str, **changes: Any) -> Path:
        """The path, without its ending, of a training state, named by everything that determines the training."""
        setup = {name: value for name, value in self.setup.as_json().items() if name not in ("widths", "seeds")}
        known = {
            "setup": setup, "images": self._fingerprint, "seed": self.seed, "device": self.device.type,
            "versions": [__version__, torch.__version__], **changes,
        }  # fmt: skip
        text = json.dumps(known, sort_keys=True)
        return self.networks / f"{kind}-{self.seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.bundle.train)

    @contextmanager
    def _timed(self, name: str | Path) -> Iterator[None]:
        """Context manager that keeps the processor time of a training beside its state, or adds that of a finished one.

        The time of a training that was interrupted counts from its last start.
        """
        file = self._checkpoint(name).with_suffix(".json")
        known = json.loads(file.read_text())["seconds"] if file.exists() else None
        start = time.process_time()
        yield
        if known is None:
            text = json.dumps({"seconds": time.process_time() - start})
            write_atomically(file, lambda path: path.write_text(text))
        else:
            self.reused_seconds += known

    def _checkpoint(self, name: str | Path) -> Path:
        return self.folder / f"{name}.ckpt"

    def _fit(self, module: SandwichModule | PlainModule, name: str | Path, epochs: int | None) -> None:
        torch.manual_seed(self.seed)
        with self._timed(name):
            fit(
                module, self.loaders().train, epochs=epochs or self.settings.optimization.epochs, device=self.device,
                checkpoint=self._checkpoint(name), precision=self.settings.optimization.precision,
            )  # fmt: skip
