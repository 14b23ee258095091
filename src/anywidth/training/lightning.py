"""Training with Lightning: the sandwich rule for a supernet, and the same recipe for one plain network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Unpack

from torch import Tensor, nn
from torch.autograd.graph import increment_version

from anywidth.core.batches import split_batch
from anywidth.core.errors import NotFiniteError, TrainingError, WidthError
from anywidth.supernet import Supernet
from anywidth.tasks import Distillations, Logits, Loss, Task, logits_of, objective_of
from anywidth.training.compiled import CompiledSubnets
from anywidth.training.execution import Execution
from anywidth.training.memory_format import check_plain_memory_format
from anywidth.training.nested_step import nested_step
from anywidth.training.pass_graphs import PassGraphs, run_directly
from anywidth.training.recipe import Recipe, RecipeOptions
from anywidth.training.sandwich import Teacher, sandwich_step
from anywidth.training.step_losses import Scale
from anywidth.widths import Width, WidthConfig

__all__ = ["PlainModule", "SandwichModule"]

_SAMPLER, _SWITCHES = "anywidth_sampler", "anywidth_switches"


class SandwichModule(Recipe):
    """Wraps `sandwich_step` for Lightning's trainer, which handles devices, precision and checkpoints.

    It logs `loss_widest`, `loss_narrowest` and `lr`. Checkpoints contain the state of the width sampler, so a resumed
    run draws the same widths as an uninterrupted one. A checkpoint written between accumulated batches lacks the
    gradients of the earlier ones.

    Args:
        net: The supernet; its weights are trained in place.
        widths: Number of widths in a step, or a list of them; see `sandwich_step`.
        loss: As in `sandwich_step`.
        task: As in `sandwich_step`.
        distillation: As in `sandwich_step`; None trains all widths on the labels.
        teacher: As in `sandwich_step`.
        label_loss_weight: As in `sandwich_step`.
        scale: As in `sandwich_step`; gradients are divided by `accumulate` as well.
        logits: As in `sandwich_step`.
        graphs: Run widths from CUDA graphs; see `PassGraphs`.
        compiled: Compile every trained width; see `CompiledSubnets`.
        recipe: Options as in `RecipeOptions`, such as `lr` and `accumulate`.

    Raises:
        LossError: the loss does not determine what narrower widths learn.
        TrainingError: the task has weights outside of the supernet, as the second stage of a detector.

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
        teacher: Teacher = "widest",
        label_loss_weight: float = 0.0,
        scale: Scale = 1.0,
        logits: Logits = logits_of,
        graphs: bool = False,
        compiled: bool = False,
        **recipe: Unpack[RecipeOptions],
    ) -> None:
        super().__init__(net.model, **recipe)
        if net.nested and (widths is not None or teacher != "widest" or graphs or compiled):
            raise WidthError(
                "a nested network trains all its widths from one pass, with the widest as teacher: leave out widths, "
                "teacher, graphs and compiled"
            )
        self.net = net
        self.widths = widths
        self.loss = loss
        self.task = task
        self.distillation: Distillations | None = distillation
        self.logits = logits
        objective = objective_of(loss, distillation=distillation, logits=logits, task=task)
        if not (isinstance(widths, Sequence) and len(widths) == 1):
            objective.require_distillation()
        outside = sum(parameter.numel() for parameter in getattr(task, "outside", ()))
        if outside:
            raise TrainingError(
                f"{type(task).__name__} trains {outside} weights outside of the supernet, which this module does not "
                "train or store; use a loop with sandwich_step and an optimizer of all parameters"
            )
        self.teacher: Teacher = teacher
        self.label_loss_weight = label_loss_weight
        self.scale = scale
        self._execution = Execution(
            runner=PassGraphs(net) if graphs else run_directly, wrap=CompiledSubnets() if compiled else None
        )
        self._drawn: list[Sequence[Width] | None] = []

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Run the sandwich or nested step of one batch; returns the losses of the widest and the narrowest."""
        inputs, targets = split_batch(self._changed(batch))
        if batch_idx % self.accumulate == 0 or not self._drawn:
            self._drawn = [self._draw()]

        def add_gradients(scale: float) -> dict[str, Tensor]:
            step = nested_step
            if not self.net.nested:
                step = partial(sandwich_step, widths=self._drawn[0], teacher=self.teacher, execution=self._execution)
            result = step(
                self.net,
                inputs,
                targets,
                loss=self.loss,
                task=self.task,
                distillation=self.distillation,
                label_loss_weight=self.label_loss_weight,
                logits=self.logits,
                scale=partial(_product, scale, self.scale) if callable(self.scale) else scale * self.scale,
                backward=self.manual_backward,
            )
            sizes = [sum(config.values()) for config in result.configs]
            narrowest = min(range(len(sizes)), key=sizes.__getitem__)
            return {"loss_widest": result.losses[0], "loss_narrowest": result.losses[narrowest]}

        return self._step(add_gradients, inputs.tensors()[0].shape[0], batch_idx)

    def _draw(self) -> Sequence[Width] | None:
        """The widths of an optimizer step, the same for all of its batches, as for one large batch."""
        if self.net.widths and self.widths is None:
            return None
        number = 4 if self.widths is None else self.widths
        return self.net.sampler.sandwich(number) if isinstance(number, int) else number

    def _others(self) -> Iterable[nn.Parameter]:
        return self.net.switch_parameters()

    def _statistics(self) -> Iterable[Tensor]:
        return [*super()._statistics(), *self.net.switch_state().values()]

    def load_others(self, checkpoint: dict[str, Any]) -> None:
        """Load the parameters of the switches from a checkpoint."""
        if self.net.switches:
            self.net.load_switch_state(checkpoint[_SWITCHES])

    def on_train_start(self) -> None:
        """Forget the widths of an earlier training."""
        super().on_train_start()
        self._drawn = []

    def on_validation_epoch_start(self) -> None:
        """Mark the weights as changed: callbacks that average them bypass their version counters."""
        increment_version(list(self.net.model.parameters()))

    on_validation_epoch_end = on_train_end = on_validation_epoch_start

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Also store the state of the width sampler and the separate parameters of switches."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_SAMPLER] = self.net.sampler.state_dict()
        checkpoint[_SWITCHES] = self.net.switch_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue drawing widths where the checkpoint stopped."""
        super().on_load_checkpoint(checkpoint)
        self.net.sampler.load_state_dict(checkpoint[_SAMPLER])
        self.load_others(checkpoint)


class PlainModule(Recipe):
    """One plain network, trained on labels with the recipe of `SandwichModule`, for comparison with a supernet.

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
        self.loss = loss  # so that a loss with parameters moves to the device with this module
        self.task = task
        self.logits = logits
        self._looked = False
        objective_of(loss, logits=logits, task=task)  # raises an error now instead of in the first step

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Run one step on the labels; returns the loss."""
        inputs, targets = split_batch(self._changed(batch))

        def add_gradients(scale: float) -> dict[str, Tensor]:
            objective = objective_of(self.loss, distillation=None, logits=self.logits, task=self.task)
            check_plain_memory_format(self.model, inputs)
            output = inputs.call(self.model)
            objective.check(output, targets, values=not self._looked or self.device.type == "cpu")
            self._looked = True
            value = objective.value(output, targets)
            self.manual_backward(value * scale)
            if not math.isfinite(float(value.detach())):
                raise NotFiniteError("the loss is not finite; lower the learning rate, or check the data for NaN")
            return {"loss": value.detach()}

        return self._step(add_gradients, inputs.tensors()[0].shape[0], batch_idx)


def _product(factor: float, scale: Callable[[WidthConfig], float], config: WidthConfig) -> float:
    return factor * scale(config)
