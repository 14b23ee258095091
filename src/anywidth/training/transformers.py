"""The sandwich rule in the trainer of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from anywidth.core.errors import TrainingError
from anywidth.core.extras import from_extra
from anywidth.core.processes import several_processes
from anywidth.supernet import Supernet
from anywidth.tasks import Distillations, Logits, Loss, Task, logits_of, objective_of
from anywidth.training.nested_step import nested_step
from anywidth.training.sandwich import sandwich_step
from anywidth.widths import Width

with from_extra("transformers", "training with transformers.Trainer needs transformers and accelerate"):
    from transformers import Trainer

__all__ = ["SandwichTrainer", "SandwichTrainerMixin"]

# A mixin stands before the trainer that it changes.
_Base: Any = Trainer if TYPE_CHECKING else object


class SandwichTrainerMixin(_Base):
    """Makes any trainer of transformers train all widths of a supernet; place it before the trainer's class.

    Learning rate schedule, gradient accumulation, mixed precision, clipping, checkpoints and evaluation (of the full
    network) remain those of the trainer. The `labels` of a batch are the targets; the other entries are the arguments
    of the model. The logged loss is that of the widest network. All accumulated batches have the same weight.

    Args:
        net: The supernet, whose model is trained in place.
        args: Further arguments of the trainer, after its model, such as `TrainingArguments`.
        widths: As in `anywidth.sandwich_step`; a nested network trains its shells.
        loss: As in `anywidth.sandwich_step`.
        task: As in `anywidth.sandwich_step`.
        distillation: As in `anywidth.sandwich_step`.
        label_loss_weight: As in `anywidth.sandwich_step`.
        logits: As in `anywidth.sandwich_step`.
        kwargs: Keyword arguments of the trainer, such as `train_dataset`.

    Raises:
        LossError: the loss does not determine what narrower widths learn.
        TrainingError: several processes train, or an option would have no effect.

    >>> from transformers import Seq2SeqTrainer
    >>> class Seq2SeqSandwichTrainer(SandwichTrainerMixin, Seq2SeqTrainer):
    ...     pass
    """

    def __init__(
        self,
        net: Supernet,
        *args: Any,
        widths: int | Sequence[Width] | None = None,
        loss: Loss | None = None,
        task: Task | None = None,
        distillation: Distillations | None = "auto",
        label_loss_weight: float = 0.0,
        logits: Logits = logits_of,
        **kwargs: Any,
    ) -> None:
        objective_of(loss, distillation=distillation, logits=logits, task=task).require_distillation()
        super().__init__(net.model, *args, **kwargs)
        if several_processes() or self.args.n_gpu > 1:
            raise TrainingError(
                "SandwichTrainer trains in one process on one device, because the trainer would wrap the model; use "
                "SandwichModule with Lightning, or a loop with sync_gradients, for several"
            )
        ignored = {
            "label_smoothing_factor": self.args.label_smoothing_factor,
            "compute_loss_func": self.compute_loss_func,
        }
        for name, value in ignored.items():
            if value:
                raise TrainingError(
                    f"{name} has no effect on a sandwich step; give loss=, such as CrossEntropyLoss(...)"
                )
        self.net = net
        self._widths = widths
        self._learned: dict[str, Any] = {
            "loss": loss, "task": task, "distillation": distillation, "label_loss_weight": label_loss_weight,
            "logits": logits,
        }  # fmt: skip

    def training_step(
        self, model: nn.Module, inputs: Mapping[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run the sandwich or nested step of one batch; returns the loss of the widest, as part of the accumulation."""
        self.net.model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()  # for schedule-free optimizers, which have modes
        batch = dict(self._prepare_inputs(inputs))
        if "labels" not in batch:
            raise TrainingError(f"a batch has {', '.join(batch)}, but no labels; give a collator that adds them")
        targets = batch.pop("labels")
        options = {**self._learned, "scale": 1 / self.current_gradient_accumulation_steps}
        if not self.net.nested:
            options["widths"] = self._widths
        step = nested_step if self.net.nested else sandwich_step
        with self.compute_loss_context_manager(), self.accelerator.autocast():
            result = step(self.net, batch, targets, backward=self.accelerator.backward, **options)
        return result.losses[0] / self.current_gradient_accumulation_steps


class SandwichTrainer(SandwichTrainerMixin, Trainer):
    """`transformers.Trainer` for all widths of a supernet; see `SandwichTrainerMixin`."""
