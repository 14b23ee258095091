"""Training with Lightning: the sandwich rule for a supernet, and the same recipe for one plain network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from anywidth.errors import CheckpointError, TrainingError
from anywidth.supernet import Supernet
from anywidth.supernet.batches import split_batch
from anywidth.training.distillation import soft_cross_entropy
from anywidth.training.optimizer import parameter_groups
from anywidth.training.sandwich import Loss, Teacher, sandwich_step
from anywidth.widths import Width, WidthConfig

__all__ = ["PlainModule", "SandwichModule", "warmup_cosine"]

_RANDOM, _SAMPLER, _SWITCHES = "anywidth_random", "anywidth_sampler", "anywidth_switches"


def warmup_cosine(step: int, *, warmup: int, total: int) -> float:
    """The factor on the learning rate of a step, counted from 0: a straight line up, then half a cosine down to 0.

    >>> [round(warmup_cosine(step, warmup=2, total=6), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


class _Recipe(LightningModule):
    """SGD with Nesterov momentum 0.9, linear warm-up and a cosine per step, and repeatable random numbers."""

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        weight_decay: float,
        warmup_epochs: float,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self._make_optimizer = optimizer or (lambda groups: torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model at full width returns."""
        return self.model(*args, **kwargs)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, with weight decay as in the papers, and the schedule of its learning rate."""
        optimizer = self._make_optimizer(parameter_groups(self.model, self.weight_decay, others=self._others()))
        total = int(self.trainer.estimated_stepping_batches)
        warmup = round(self.warmup_epochs * total / max(1, self.trainer.max_epochs or 1))
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup=warmup, total=total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _others(self) -> Iterable[nn.Parameter]:
        """Parameters to be trained that are not the model's."""
        return ()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of torch's random numbers, which dropout and the like draw from."""
        checkpoint[_RANDOM] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            checkpoint[_RANDOM]["cuda"] = torch.cuda.get_rng_state(self.device)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on drawing where the checkpoint stopped."""
        if _RANDOM not in checkpoint:
            raise CheckpointError(f"the training checkpoint was not written by {type(self).__name__}")
        torch.set_rng_state(checkpoint[_RANDOM]["cpu"].cpu())
        if self.device.type == "cuda" and "cuda" in checkpoint[_RANDOM]:
            torch.cuda.set_rng_state(checkpoint[_RANDOM]["cuda"].cpu(), self.device)

    def _step(self, fill_gradients: Callable[[], dict[str, Tensor]], batch: int) -> dict[str, Tensor]:
        """One optimizer step around `fill_gradients`, which returns what is to be logged."""
        optimizer = self.optimizers()
        schedule = self.lr_schedulers()
        assert not isinstance(optimizer, list)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.zero_grad()
        try:
            losses = fill_gradients()
        except TrainingError as error:
            raise TrainingError(f"step {self.global_step + 1}, epoch {self.current_epoch + 1}: {error}") from error
        optimizer.step()
        cast(LRScheduler, schedule).step()
        self.log_dict({**losses, "lr": rate}, on_step=True, on_epoch=True, batch_size=batch)
        return losses


class SandwichModule(_Recipe):
    """A thin wrapper of `sandwich_step` for Lightning's trainer, which brings devices, precision and checkpoints.

    It logs `loss_widest`, `loss_narrowest` and `lr`. Checkpoints hold the state of the width sampler, so that a
    resumed run draws the widths that the unbroken run would have drawn.

    Args:
        net: The supernet; its weights are trained in place.
        lr: Peak learning rate.
        weight_decay: For ordinary convolution and linear weights; see `parameter_groups`.
        warmup_epochs: Epochs of linear warm-up.
        widths: How many widths a step trains, or which; see `sandwich_step`.
        loss: As in `sandwich_step`.
        distillation: As in `sandwich_step`; None trains all widths on the labels.
        labels: As in `sandwich_step`.
        teacher: As in `sandwich_step`.
        weight: As in `sandwich_step`.
        optimizer: Makes another optimizer of parameter groups; by default SGD with Nesterov momentum 0.9.

    Source: US-Nets (arXiv 1903.05134), algorithm 1 and section 4.

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
        lr: float = 0.1,
        weight_decay: float = 1e-4,
        warmup_epochs: float = 0,
        widths: int | Sequence[Width] | None = None,
        loss: Loss = F.cross_entropy,
        distillation: Loss | None = soft_cross_entropy,
        labels: float = 0.0,
        teacher: Teacher = "widest",
        weight: Callable[[WidthConfig], float] | None = None,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
    ) -> None:
        super().__init__(net.model, lr=lr, weight_decay=weight_decay, warmup_epochs=warmup_epochs, optimizer=optimizer)
        self.net = net
        self.widths = widths
        self.loss = loss
        self.distillation = distillation
        self.labels = labels
        self.teacher: Teacher = teacher
        self.weight = weight

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """One sandwich step; the losses of the widest and the narrowest."""
        inputs, targets = split_batch(batch)

        def fill_gradients() -> dict[str, Tensor]:
            result = sandwich_step(
                self.net,
                inputs,
                targets,
                loss=self.loss,
                widths=self.widths,
                distillation=self.distillation,
                labels=self.labels,
                teacher=self.teacher,
                weight=self.weight,
                backward=self.manual_backward,
            )
            sizes = [sum(config.values()) for config in result.configs]
            narrowest = min(range(len(sizes)), key=sizes.__getitem__)
            return {"loss_widest": result.losses[0], "loss_narrowest": result.losses[narrowest]}

        return self._step(fill_gradients, inputs.tensors()[0].shape[0])

    def _others(self) -> Iterable[nn.Parameter]:
        return self.net.switch_parameters()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state of the width sampler as well, and what switches have of their own."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_SAMPLER] = self.net.sampler.state_dict()
        checkpoint[_SWITCHES] = self.net.switch_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on drawing widths where the checkpoint stopped."""
        super().on_load_checkpoint(checkpoint)
        self.net.sampler.load_state_dict(checkpoint[_SAMPLER])
        if self.net.switches:
            self.net.load_switch_state(checkpoint[_SWITCHES])


class PlainModule(_Recipe):
    """One plain network, trained on labels alone with the recipe of `SandwichModule`: what a supernet is compared to.

    It logs `loss` and `lr`. The arguments are those of `SandwichModule`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 0.1,
        weight_decay: float = 1e-4,
        warmup_epochs: float = 0,
        loss: Loss = F.cross_entropy,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
    ) -> None:
        super().__init__(model, lr=lr, weight_decay=weight_decay, warmup_epochs=warmup_epochs, optimizer=optimizer)
        self.loss = loss

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """One step on the labels; the loss."""
        inputs, targets = split_batch(batch)

        def fill_gradients() -> dict[str, Tensor]:
            value = self.loss(inputs.call(self.model), targets)
            self.manual_backward(value)
            if not math.isfinite(float(value.detach())):
                raise TrainingError("the loss is not finite; lower the learning rate, or check the data for NaN")
            return {"loss": value.detach()}

        return self._step(fill_gradients, inputs.tensors()[0].shape[0])
