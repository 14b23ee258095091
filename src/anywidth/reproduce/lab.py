"""What a cell of an experiment works with: data, networks, training and spectra, all fixed by one seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from anywidth.batchnorm import calibrate
from anywidth.cost import macs
from anywidth.data import DataBundle, Loaders, load_data, make_loaders, resident
from anywidth.data.subset import fewer_images
from anywidth.evaluation import evaluate, even_widths, spectrum
from anywidth.models import build_model, channels_last_
from anywidth.reproduce.results import Curve, Point
from anywidth.reproduce.setup import Setup
from anywidth.supernet import Supernet
from anywidth.training import soft_cross_entropy
from anywidth.training.fit import fit
from anywidth.training.individual import train_alone
from anywidth.training.lightning import PlainModule, SandwichModule
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
        self.setup, self.seed, self.device, self.data_root, self.folder = setup, seed, device, data_root, folder

    @cached_property
    def bundle(self) -> DataBundle:
        """The data set; its split depends on the seed, where it has none of its own."""
        setup = self.setup
        bundle = load_data(setup.data, root=self.data_root, seed=self.seed, image_size=setup.image_size)
        if setup.train_images is not None or setup.test_images is not None:
            bundle = fewer_images(bundle, train=setup.train_images, test=setup.test_images, seed=self.seed)
        return resident(bundle, self.device)

    def loaders(self) -> Loaders:
        """Fresh loaders, whose batches depend on the seed and the epoch alone."""
        return make_loaders(self.bundle, batch_size=self.setup.batch_size, seed=self.seed)

    def supernet(self, **options: Any) -> Supernet:
        """A supernet with new weights, those of the seed; options are those of `Supernet`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = build_model(
                self.setup.model, num_classes=len(self.bundle.classes), input_shape=self.bundle.input_shape
            )
        example = torch.zeros(1, *self.bundle.input_shape)
        own = {name: getattr(model, name) for name in ("divisor", "min_width", "frozen") if hasattr(model, name)}
        net = Supernet(model, example, **{**own, **options})
        channels_last_(model)
        return net

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
        groups = [group.name for group in net.analysis.elastic] if nonuniform else []
        net.sampler = sampler or WidthSampler(net.min_width, seed=self.seed, ends=ends, groups=groups)
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
        dense = train_alone(
            net, width, self.loaders().train, epochs=self.setup.epochs, seed=self.seed, device=self.device,
            checkpoint=self._checkpoint(name or f"alone-{x}"), precision=self.setup.precision,
            loss=partial(F.cross_entropy, label_smoothing=smoothing), **self._recipe(),
        )  # fmt: skip
        alone = Supernet(dense, net.inputs.args[0].to(self.device), min_width=1.0)
        calibrate(alone, self.loaders().calibration, [1.0])
        return [Point(x=x, y=evaluate(alone, self.loaders().test), macs=macs(net, width))]

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

    def _recipe(self) -> dict[str, Any]:
        setup = self.setup
        return {"lr": setup.lr, "weight_decay": setup.weight_decay, "warmup_epochs": setup.warmup_epochs}

    def _checkpoint(self, name: str) -> Path:
        return self.folder / f"{name}.ckpt"

    def _fit(self, module: SandwichModule | PlainModule, name: str, epochs: int | None) -> None:
        torch.manual_seed(self.seed)
        fit(
            module, self.loaders().train, epochs=epochs or self.setup.epochs, device=self.device,
            checkpoint=self._checkpoint(name), precision=self.setup.precision,
        )  # fmt: skip
