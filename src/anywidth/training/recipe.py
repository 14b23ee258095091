"""The base of all modules for Lightning's trainer: optimizer, schedule, accumulation, clipping, random numbers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, TypedDict, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from anywidth.core.errors import CheckpointError, NotFiniteError, TrainingError
from anywidth.core.gradient_sync import sync_gradients
from anywidth.core.optimizers import parameters_of
from anywidth.core.processes import all_gather, any_rank, rank_and_count
from anywidth.training.optimizer import parameter_groups
from anywidth.training.schedule import Schedule, warmup_cosine
from anywidth.training.strategy import SandwichStrategy

__all__ = ["Recipe", "RecipeOptions"]

_RANDOM = "anywidth_random"
_MOST_IN_A_ROW = 20


class RecipeOptions(TypedDict, total=False):
    """Keyword arguments of `SandwichModule` and `PlainModule` about the optimizer step.

    Attributes:
        lr: Peak learning rate; by default 0.1.
        weight_decay: For ordinary convolution and linear weights; see `parameter_groups`; by default 0.0001.
        warmup_epochs: Epochs of learning-rate warm-up; by default 0.
        optimizer: Builds an optimizer from parameter groups; by default SGD with Nesterov momentum 0.9.
        schedule: Returns the learning-rate factor of a step; by default `warmup_cosine`.
        accumulate: Batches per optimizer step; their gradients are averaged.
        clip: Maximum total gradient norm; by default gradients are not clipped.
        skip: Skip optimizer steps with a non-finite loss instead of stopping; 20 in a row still stop the training.
        transform: Changes a batch, `transform(images, labels)`, such as torchvision's `v2.MixUp`.
    """

    lr: float
    weight_decay: float
    warmup_epochs: float
    optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None
    schedule: Schedule
    accumulate: int
    clip: float | None
    skip: bool
    transform: Callable[..., Any] | None


class Recipe(LightningModule):
    """The optimizer and its steps: by default SGD with Nesterov momentum 0.9, linear warm-up and a cosine decay.

    If several processes train together, each optimizer step synchronizes the gradients once.

    Raises:
        TrainingError: a setting is invalid.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float = 0.1,
        weight_decay: float = 1e-4,
        warmup_epochs: float = 0,
        optimizer: Callable[[list[dict[str, Any]]], Optimizer] | None = None,
        schedule: Schedule = warmup_cosine,
        accumulate: int = 1,
        clip: float | None = None,
        skip: bool = False,
        transform: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        if accumulate < 1:
            raise TrainingError(
                f"accumulate is {accumulate}; give the number of batches per optimizer step, at least 1"
            )
        if clip is not None and not 0 < clip < math.inf:
            raise TrainingError(f"clip is {clip:g}; give the maximum norm of the gradients, above 0")
        self.automatic_optimization = False
        self.model = model
        self.lr = lr
        self.weight_decay = weight_decay
        self.warmup_epochs = warmup_epochs
        self.schedule = schedule
        self.accumulate = accumulate
        self.clip = clip
        self.skip = skip
        self.skipped = 0
        self._bad, self._in_a_row = False, 0
        self._before: list[Tensor] = []
        self._random: dict[str, Tensor] = {}
        self.transform = transform
        self._make_optimizer = optimizer or (lambda groups: torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True))

    def __deepcopy__(self, memo: dict[int, Any]) -> Recipe:
        """A copy of the weights only, for callbacks that average them; a loss or teacher may have weights too."""
        made = Recipe(copy.deepcopy(self.model, memo))
        for name, child in self.named_children():
            if name != "model":
                setattr(made, name, copy.deepcopy(child, memo))
        return made

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the model at full width."""
        return self.model(*args, **kwargs)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, with weight decay as in the papers, and its learning-rate schedule."""
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not isinstance(strategy, SandwichStrategy):
            raise TrainingError(
                f"{type(strategy).__name__} would synchronize the gradients of only one width; "
                "give Trainer(strategy=anywidth.training.strategy.SandwichStrategy())"
            )
        optimizer = self._make_optimizer(parameter_groups(self.model, self.weight_decay, others=self._others()))
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if self.clip is not None and scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise TrainingError(
                f"a fused {type(optimizer).__name__} applies 16-bit gradients before they can be clipped; "
                "leave out fused=True, clip, or precision 16"
            )
        total, warmup = self._steps()
        factor = self.schedule
        schedule = LambdaLR(optimizer, lambda step: factor(step, warmup=warmup, total=total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _steps(self) -> tuple[int, int]:
        """The number of optimizer steps of the whole training, and of its warm-up."""
        self.trainer.fit_loop.setup_data()  # determines the number of batches
        an_epoch = math.ceil(self.trainer.num_training_batches / self.accumulate) if self._counted() else math.inf
        epochs = math.inf if self.trainer.max_epochs in (None, -1) else self.trainer.max_epochs
        steps = math.inf if self.trainer.max_steps == -1 else self.trainer.max_steps
        total = min(epochs * an_epoch, steps)
        if not math.isfinite(total):
            raise TrainingError("the loader has no length; give Trainer(limit_train_batches=...) or max_steps=...")
        if self.warmup_epochs and not math.isfinite(an_epoch):
            raise TrainingError("a warm-up given in epochs needs a loader with a length; set warmup_epochs=0")
        return int(total), round(self.warmup_epochs * an_epoch) if self.warmup_epochs else 0

    def _counted(self) -> bool:
        """Whether the number of batches in an epoch is known."""
        return math.isfinite(self.trainer.num_training_batches)

    def _others(self) -> Iterable[nn.Parameter]:
        """Trained parameters that do not belong to the model."""
        return ()

    def _statistics(self) -> Iterable[Tensor]:
        """The buffers that a forward pass changes."""
        return self.model.buffers()

    def load_others(self, checkpoint: dict[str, Any]) -> None:
        """Load trained parameters that do not belong to the model from a checkpoint."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip the gradients, which 16-bit training has already unscaled here."""
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters_of(optimizer), self.clip)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the state of torch's random generators in every process, for dropout and similar functions."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint[_RANDOM] = all_gather(state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read the state of the random generators."""
        if _RANDOM not in checkpoint:
            raise CheckpointError(f"the training checkpoint was not written by {type(self).__name__}")
        states = checkpoint[_RANDOM]
        self._random = states[rank_and_count()[0] % len(states)]

    def on_train_start(self) -> None:
        """Restore the random generators, now that the module is on its device."""
        self._bad, self._before = False, []
        if self._random:
            torch.set_rng_state(self._random["cpu"].cpu())
            if self.device.type == "cuda" and "cuda" in self._random:
                torch.cuda.set_rng_state(self._random["cuda"].cpu(), self.device)
            self._random = {}

    def _changed(self, batch: Any) -> Any:
        """The batch after the transform."""
        return batch if self.transform is None else self.transform(*batch)

    def _step(self, add_gradients: Callable[[float], dict[str, Tensor]], batch: int, number: int) -> dict[str, Tensor]:
        """Run one batch of an optimizer step.

        Args:
            add_gradients: Adds the gradients of the batch, with the loss multiplied by its argument, and returns values
                to log.
            batch: Number of samples in the batch.
            number: Index of the batch in the epoch, from 0.
        """
        optimizer = self.optimizers()
        schedule = self.lr_schedulers()
        assert not isinstance(optimizer, list)
        rate = optimizer.param_groups[0]["lr"]
        first = number // self.accumulate * self.accumulate
        last = first + self.accumulate - 1
        if self._counted():
            last = min(last, int(self.trainer.num_training_batches) - 1)
        if number == first:
            optimizer.zero_grad()
            self._bad = False
            self._before = []
        if self.skip and not self._before:
            self._before = [tensor.clone() for tensor in self._statistics()]
        losses: dict[str, Tensor] = {}
        try:
            losses = add_gradients(1 / (last - first + 1))
        except NotFiniteError as error:
            self._bad = True
            if not self.skip or self._in_a_row >= _MOST_IN_A_ROW:
                where = f"step {self.global_step + 1}, epoch {self.current_epoch + 1}"
                after = f", after {self._in_a_row} skipped steps" if self._in_a_row else ""
                raise NotFiniteError(f"{where}{after}: {error}") from error
        if number == last:
            self._finish(optimizer)
            cast(LRScheduler, schedule).step()
        self.log_dict({**losses, "lr": rate}, on_step=True, on_epoch=True, batch_size=batch)
        return losses

    def _finish(self, optimizer: Any) -> None:
        """Step the optimizer, unless a loss was not finite in any process."""
        if self.skip and any_rank(self._bad, self.device):
            optimizer.zero_grad()
            # The forward passes have already updated the running averages of batch norms.
            for tensor, before in zip(self._statistics(), self._before, strict=True):
                tensor.copy_(before)
            self.skipped += 1
            self._in_a_row += 1
            return
        sync_gradients(parameters_of(optimizer))
        optimizer.step()
        self._in_a_row = 0
