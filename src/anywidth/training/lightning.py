"""Training with Lightning: the sandwich rule for a supernet, and the same recipe for one plain network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Unpack

from torch import Tensor, nn
from torch.autograd.graph import increment_version

from anywidth.core.batches import split_batch
from anywidth.core.errors import NotFiniteError
from anywidth.supernet import Supernet
from anywidth.tasks import Distillations, Logits, Loss, Task, logits_of, objective_of
from anywidth.training.compiled import CompiledSubnets
from anywidth.training.pass_graphs import PassGraphs, Runner, run_directly
from anywidth.training.recipe import Recipe, RecipeOptions
from anywidth.training.sandwich import Teacher, sandwich_step
from anywidth.widths import Width, WidthConfig

__all__ = ["PlainModule", "SandwichModule"]

_SAMPLER, _SWITCHES = "anywidth_sampler", "anywidth_switches"


class SandwichModule(Recipe):
    """A thin wrapper of `sandwich_step` for Lightning's trainer, which brings devices, precision and checkpoints.

    It logs `loss_widest`, `loss_narrowest` and `lr`. Checkpoints hold the state of the width sampler, so that a
    resumed run draws the widths that the unbroken run would have drawn. One that was written amid accumulated batches
    lacks the gradients of those before it.

    Args:
        net: The supernet; its weights are trained in place.
        widths: How many widths a step trains, or which; see `sandwich_step`.
        loss: As in `sandwich_step`.
        task: As in `sandwich_step`.
        distillation: As in `sandwich_step`; None trains all widths on the labels.
        labels: As in `sandwich_step`.
        teacher: As in `sandwich_step`.
        weight: As in `sandwich_step`.
        logits: As in `sandwich_step`.
        graphs: Run from CUDA graphs; see `PassGraphs`.
        compiled: Compile every width that is trained; see `CompiledSubnets`.
        recipe: Those of `RecipeOptions`, such as `lr` and `accumulate`.

    Raises:
        LossError: what narrower widths learn does not follow from the loss.

    Source: US-Nets (arXiv 1903.05134), algorithm 1 and section 4.

    >>> import torch
    >>> from lightning.pytorch import Trainer
    >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> module = SandwichModule(Supernet(model, torch.randn(1, 4)), lr=0.1)
    >>> trainer = Trainer(max_epochs=1, logger=False, barebones=True)  # doctest: +SKIP
    >>> trainer.fit(module, loader)  # doctest: +SKIP
    """

    def __init__(
        self,
        net: Supernet,
        *,
        widths: int | Sequence[Width] | None = None,
        loss: Loss | None = None,
        task: Task | None = None,
        distillation: Distillations | None = "auto",
        labels: float = 0.0,
        teacher: Teacher = "widest",
        weight: Callable[[WidthConfig], float] | None = None,
        logits: Logits = logits_of,
        graphs: bool = False,
        compiled: bool = False,
        **recipe: Unpack[RecipeOptions],
    ) -> None:
        super().__init__(net.model, **recipe)
        self.net = net
        self.widths = widths
        self.loss = loss
        self.task = task
        self.distillation: Distillations | None = distillation
        self.logits = logits
        objective = objective_of(loss, distillation=distillation, logits=logits, task=task)
        if not (isinstance(widths, Sequence) and len(widths) == 1):
            objective.require_distillation()
        self.labels = labels
        self.teacher: Teacher = teacher
        self.weight = weight
        self._runner: Runner = PassGraphs(net) if graphs else run_directly
        self._wrap = CompiledSubnets() if compiled else None
        self._drawn: list[Sequence[Width] | None] = []

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """The sandwich step of one batch; the losses of the widest and the narrowest."""
        inputs, targets = split_batch(self._changed(batch))
        if batch_idx % self.accumulate == 0 or not self._drawn:
            self._drawn = [self._draw()]

        def add_gradients(scale: float) -> dict[str, Tensor]:
            result = sandwich_step(
                self.net,
                inputs,
                targets,
                loss=self.loss,
                task=self.task,
                widths=self._drawn[0],
                distillation=self.distillation,
                labels=self.labels,
                teacher=self.teacher,
                weight=self.weight,
                logits=self.logits,
                scale=scale,
                backward=self.manual_backward,
                runner=self._runner,
                wrap=self._wrap,
            )
            sizes = [sum(config.values()) for config in result.configs]
            narrowest = min(range(len(sizes)), key=sizes.__getitem__)
            return {"loss_widest": result.losses[0], "loss_narrowest": result.losses[narrowest]}

        return self._step(add_gradients, inputs.tensors()[0].shape[0], batch_idx)

    def _draw(self) -> Sequence[Width] | None:
        """The widths of an optimizer step, whose batches are to add up to one large batch."""
        if self.net.switches and self.widths is None:
            return None
        number = 4 if self.widths is None else self.widths
        return self.net.sampler.sandwich(number) if isinstance(number, int) else number

    def _others(self) -> Iterable[nn.Parameter]:
        return self.net.switch_parameters()

    def _statistics(self) -> Iterable[Tensor]:
        return [*super()._statistics(), *self.net.switch_state().values()]

    def load_others(self, checkpoint: dict[str, Any]) -> None:
        """Take what a checkpoint has of the switches."""
        if self.net.switches:
            self.net.load_switch_state(checkpoint[_SWITCHES])

    def on_train_start(self) -> None:
        """Forget the widths of a training before."""
        super().on_train_start()
        self._drawn = []

    def on_validation_epoch_start(self) -> None:
        """Notice that the weights are others: callbacks that average them write past their version counters."""
        increment_version(list(self.net.model.parameters()))

    on_validation_epoch_end = on_train_end = on_validation_epoch_start

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the width sampler as well, and what switches have of their own."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_SAMPLER] = self.net.sampler.state_dict()
        checkpoint[_SWITCHES] = self.net.switch_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on drawing widths where the checkpoint stopped."""
        super().on_load_checkpoint(checkpoint)
        self.net.sampler.load_state_dict(checkpoint[_SAMPLER])
        self.load_others(checkpoint)


class PlainModule(Recipe):
    """One plain network, trained on labels alone with the recipe of `SandwichModule`: what a supernet is compared to.

    It logs `loss` and `lr`. The arguments are those of `SandwichModule`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Loss | None = None,
        task: Task | None = None,
        logits: Logits = logits_of,
        **recipe: Unpack[RecipeOptions],
    ) -> None:
        super().__init__(model, **recipe)
        self.loss = loss  # a module among them moves to the device with this one
        self.task = task
        self.logits = logits
        self._looked = False
        objective_of(loss, logits=logits, task=task)  # raises an error now, not in the first step

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """One step on the labels; the loss."""
        inputs, targets = split_batch(self._changed(batch))

        def add_gradients(scale: float) -> dict[str, Tensor]:
            objective = objective_of(self.loss, distillation=None, logits=self.logits, task=self.task)
            output = inputs.call(self.model)
            objective.check(output, targets, values=not self._looked or self.device.type == "cpu")
            self._looked = True
            value = objective.value(output, targets)
            self.manual_backward(value * scale)
            if not math.isfinite(float(value.detach())):
                raise NotFiniteError("the loss is not finite; lower the learning rate, or check the data for NaN")
            return {"loss": value.detach()}

        return self._step(add_gradients, inputs.tensors()[0].shape[0], batch_idx)
