"""One arm with one seed: its data, its model, and training within its processor time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from anywidth.models import build_model, channels_last_
from anywidth.reproduce import Context
from anywidth.training.optimizer import parameter_groups
from anywidth.training.schedule import warmup_cosine

__all__ = ["WIDTHS", "Job", "Phase", "Share", "Step", "layout_"]

WIDTHS = (0.25, 0.5, 0.75, 1.0)
"""The budgets are the MACs of the model at these widths."""

Step = Callable[[Tensor, Tensor], object]
"""Adds the gradients of a batch of images and labels."""

_MEASURED = 6
"""Steps that estimate the time of a step; the estimate is corrected during the training."""

_ROUNDS = 3


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One training of an arm: its name, epochs, and seconds of processor time."""

    name: str
    epochs: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Share:
    """A network among several that divide the remaining time.

    Attributes:
        name: Name of the training in the record.
        model: The network.
        rate: Its peak learning rate, relative to that of the recipe.
    """

    name: str
    model: nn.Module
    rate: float = 1.0


class Job:
    """The tools of an arm. Its time starts with `restart`.

    All arms train with the loaders, optimizer and recipe of `anywidth reproduce --scale cifar`: SGD with Nesterov
    momentum, a warm-up of one epoch (at most a fifth of the steps), and a cosine decay to 0.

    Args:
        context: Data and settings of the seed.
        seconds: Processor time of the arm.
        clock: Returns processor time in seconds.

    Attributes:
        budgets: The largest numbers of MACs of the delivered networks, from narrow to wide.
        phases: The trainings so far.
    """

    def __init__(self, context: Context, seconds: float, *, clock: Callable[[], float] = time.process_time) -> None:
        self.context, self.seconds, self.clock = context, seconds, clock
        self.budgets = [aw.macs(context.structure, width) for width in WIDTHS]
        self.phases: list[Phase] = []
        self.restart()

    def restart(self) -> None:
        """Start the time of the arm."""
        self._start = self.clock()

    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self._start

    def left(self) -> float:
        """Seconds until the time of the arm is over."""
        return self.seconds - self.spent()

    @cached_property
    def example(self) -> Tensor:
        """One test image, `(1, channels, height, width)`."""
        images, _ = next(iter(self.context.loaders().test))
        return images[:1]

    def plain(self, width: float = 1.0) -> nn.Module:
        """The model with the channels of a width and new weights from the seed."""
        bundle = self.context.bundle
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.context.seed)
            made = build_model(
                self.context.setup.model, num_classes=len(bundle.classes), input_shape=bundle.input_shape, width=width
            )
        return channels_last_(made)

    def step_seconds(self, model: nn.Module, step: Step | None = None) -> float:
        """Mean seconds of a few training steps with their batches; the model keeps its weights and statistics."""
        step = step or partial(plain_step, model)
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        model.train()
        batches = _endless(self.context.loaders().train)
        optimizer = self._optimizer(model, rate=0.0)
        start = self.clock()
        for number in range(1 + _MEASURED):
            if number == 1:  # the first step chooses kernels
                start = self.clock()
            images, labels = next(batches)
            optimizer.zero_grad()
            step(images, labels)
            optimizer.step()
        seconds = (self.clock() - start) / _MEASURED
        model.zero_grad()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
        return seconds

    def _times(self, models: Sequence[nn.Module]) -> list[float]:
        """Seconds of a step of every model: medians over rounds, since they decide how models share their time."""
        rounds = [[self.step_seconds(model) for model in models] for _ in range(_ROUNDS)]
        return [statistics.median(times) for times in zip(*rounds, strict=True)]

    def train(
        self, name: str, model: nn.Module, *, seconds: float, step: Step | None = None, rate: float = 1.0
    ) -> None:
        """Train a network for some seconds of processor time, with a whole schedule.

        The number of steps follows from the time of a step, which is measured first. It is corrected after every epoch
        and after every twentieth of the steps, so that the schedule ends when the time is over.

        Args:
            name: Name of the training in the record.
            model: The network.
            seconds: Processor time, including that of measuring a step.
            step: Adds the gradients of a batch; by default those of the cross-entropy.
            rate: Peak learning rate, relative to that of the recipe.
        """
        start = self.clock()
        loader = self.context.loaders().train
        step = step or partial(plain_step, model)
        estimate = max(self.step_seconds(model, step), 1e-9)
        total = max(1, round((seconds - (self.clock() - start)) / estimate))
        warmup, often = min(len(loader), total // 5), max(1, min(len(loader), total // 20))
        optimizer = self._optimizer(model, rate=rate)
        model.train()
        begun, done = self.clock(), 0
        batches = _endless(loader)
        while done < total:
            factor = warmup_cosine(done, warmup=warmup, total=total)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            images, labels = next(batches)
            optimizer.zero_grad()
            step(images, labels)
            optimizer.step()
            done += 1
            if done % often == 0 and done < total:
                now = self.clock()
                each = max((now - begun) / done, 1e-9)
                total = done + max(0, round((seconds - (now - start)) / each))
        model.eval()
        self.phases.append(Phase(name=name, epochs=done / len(loader), seconds=self.clock() - start))

    def _optimizer(self, model: nn.Module, *, rate: float) -> torch.optim.Optimizer:
        """The optimizer of the recipe."""
        settings = self.context.settings
        peak = rate * settings.optimization.lr
        groups = [{**group, "initial_lr": peak} for group in parameter_groups(model, settings.weight_decay)]
        return torch.optim.SGD(groups, lr=peak, momentum=0.9, nesterov=True)

    def train_in_turn(self, shares: Sequence[Share]) -> None:
        """Train networks one after another in the time that is left, all for the same number of epochs."""
        times = self._times([share.model for share in shares])
        for number, share in enumerate(shares):
            seconds = self.left() * times[number] / sum(times[number:])
            self.train(share.name, share.model, seconds=seconds, rate=share.rate)

    def train_full(self, *, tuned: float, reserve: float) -> nn.Module:
        """The full network, trained so long that a fine-tuning for every smaller budget fits into the rest.

        Args:
            tuned: Epochs of each fine-tuning, relative to those of the full network.
            reserve: Seconds for pruning or searching.
        """
        full = self.plain()
        *others, time_of_full = self._times([*(self.plain(width) for width in WIDTHS[:-1]), full])
        seconds = (self.left() - reserve) * time_of_full / (time_of_full + tuned * sum(others))
        self.train("full network", full, seconds=seconds)
        return full


def plain_step(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Add the gradients of the cross-entropy."""
    F.cross_entropy(model(images), labels).backward()


def layout_(model: nn.Module) -> nn.Module:
    """Give a pruned network the memory format that a new network of its channels would have, in place."""
    return channels_last_(model.to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]


def _endless(loader: Iterator[tuple[Tensor, Tensor]] | object) -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield from loader  # type: ignore[misc]
