"""What a cell of an experiment works with: data, networks, training and spectra, all fixed by one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from anywidth.batchnorm import calibrate
from anywidth.data import DataBundle, Loaders, resident
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

__all__ = ["Lab"]


class Lab:
    """One seed of one experiment.

    Every network starts from the weights of the seed and sees the batches of the seed, so that arms differ in what
    they are about and in nothing else.

    Args:
        setup: The settings that all arms share.
        seed: Of weights, widths, batches and split.
        device: Where to train.
        data_root: The folder of downloaded data sets.
        folder: Where training keeps its state after every epoch.
    """

    def __init__(self, setup: Setup, seed: int, *, device: torch.device, data_root: Path, folder: Path) -> None:
        self.setup, self.seed, self.device, self.folder = setup, seed, device, folder
        self.settings = setup.train_settings(seed, data_root=data_root)

    @cached_property
    def bundle(self) -> DataBundle:
        """The data set; its split depends on the seed, where it has none of its own."""
        setup, bundle = self.setup, build_data(self.settings)
        if setup.train_images is not None or setup.test_images is not None:
            bundle = fewer_images(bundle, train=setup.train_images, test=setup.test_images, seed=self.seed)
        return resident(bundle, self.device)

    def loaders(self) -> Loaders:
        """Fresh loaders, whose batches depend on the seed and the epoch alone."""
        return build_loaders(self.settings, self.bundle)

    def supernet(
        self, *, min_width: float | None = None, switches: Sequence[float] | None = None, switch_affine: bool = True
    ) -> Supernet:
        """A supernet with new weights, those of the seed, analysed on a test image.

        Args:
            min_width: The narrowest width; by default the model's own.
            switches: The only widths, each with batch norms of its own.
            switch_affine: Whether these batch norms have weights and biases, and not only statistics.
        """
        images, _ = next(iter(self.loaders().test))
        with torch.random.fork_rng(devices=[]):
            return build_supernet(
                self.settings.model,
                replace(
                    self.settings.widths, min_width=min_width, switches=None if switches is None else tuple(switches)
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
        name: str,
        *,
        ends: Ends = "both",
        samples: int | None = None,
        nonuniform: bool = False,
        sampler: WidthSampler | None = None,
        epochs: int | None = None,
        **options: Any,
    ) -> Supernet:
        """Train a supernet by the sandwich rule and return it; options are those of `SandwichModule`.

        Args:
            net: The supernet.
            name: Of its training state; different in every call of a cell.
            ends: The widths that are in every step; see `WidthSampler`.
            samples: Widths per step; by default those of the setup, or all switches.
            nonuniform: Whether every group has a random width of its own.
            sampler: Draws the widths instead.
            epochs: Passes over the training images; by default those of the setup.
            options: Of `SandwichModule`, such as `distillation`, `labels` or `loss`.
        """
        drawn = replace(self.settings.widths, ends=ends, random="nonuniform" if nonuniform else "uniform")
        net.sampler = sampler or build_sampler(net, replace(self.settings, widths=drawn))
        if not net.switches:
            options.setdefault("widths", samples or self.setup.samples)
        self._fit(SandwichModule(net, **self._recipe(), **options), name, epochs)
        net.model.to(self.device)
        return net

    def train_plain(self, model: nn.Module, name: str) -> nn.Module:
        """Train a network at its full width alone, on the labels, and return it."""
        self._fit(PlainModule(model, **self._recipe()), name, None)
        return model.to(self.device)

    def train_alone(
        self,
        net: Supernet,
        width: Width,
        *,
        x: float | str | None = None,
        name: str | None = None,
        smoothing: float = 0,
    ) -> Curve:
        """The point of a network like the supernet's at one width, trained alone, and scored like a supernet.

        Args:
            net: The supernet, of which only the structure is taken.
            width: As in `Supernet.config`.
            x: Where the point is; by default the width.
            name: Of its training state; different in every call of a cell.
            smoothing: The share of every label that is spread over all classes.
        """
        x = x if x is not None else width if isinstance(width, float) else net.label(width)
        steps = replace(self.settings.optimization, label_smoothing=smoothing)
        row = train_individual(
            net, width, replace(self.settings, optimization=steps), self.bundle, device=self.device,
            checkpoint=self._checkpoint(name or f"alone-{x}"), corrupt=CorruptImages(Reporter()),
        )  # fmt: skip
        return [Point(x=x, y=row.accuracy, macs=row.macs)]

    def widths(self, net: Supernet) -> list[float]:
        """The widths of a spectrum: as many as the setup says, or all switches."""
        return even_widths(net, self.setup.widths)

    def spectrum(self, net: Supernet, widths: Sequence[Width] | Mapping[str, Width] | None = None) -> Curve:
        """Calibrate a supernet at some widths (or widths by name), by default `widths()`, and score it.

        Networks with switches have their statistics already.
        """
        chosen = self.widths(net) if widths is None else widths
        if not net.switches:
            calibrate(net, self.loaders().calibration, list(chosen.values() if isinstance(chosen, Mapping) else chosen))
        return self.score(net, chosen)

    def score(self, net: Supernet, widths: Sequence[Width] | Mapping[str, Width]) -> Curve:
        """Accuracy and MACs of a supernet that has the statistics of these widths."""
        return [Point(x=r.width, y=r.accuracy, macs=r.macs) for r in spectrum(net, self.loaders().test, widths)]

    def soft(self, temperature: float = 1.0) -> Any:
        """In-place distillation at a temperature, for `distillation=`."""
        return partial(soft_cross_entropy, temperature=temperature)

    def _recipe(self) -> RecipeOptions:
        return recipe_of(self.settings, len(self.bundle.classes))

    def _checkpoint(self, name: str) -> Path:
        return self.folder / f"{name}.ckpt"

    def _fit(self, module: SandwichModule | PlainModule, name: str, epochs: int | None) -> None:
        torch.manual_seed(self.seed)
        fit(
            module, self.loaders().train, epochs=epochs or self.settings.optimization.epochs, device=self.device,
            checkpoint=self._checkpoint(name), precision=self.settings.optimization.precision,
        )  # fmt: skip
