"""Training a supernet: the sandwich rule and in-place distillation."""

from anywidth.core.gradient_sync import same_start, sync_gradients
from anywidth.supernet import follow_mode
from anywidth.tasks import Task, distillation_of, logits_of, soft_cross_entropy
from anywidth.training.execution import Execution
from anywidth.training.nested_step import nested_step
from anywidth.training.optimizer import parameter_groups
from anywidth.training.sandwich import sandwich_step
from anywidth.training.step import SandwichResult
from anywidth.training.step_losses import StepOptions

__all__ = [
    "Execution",
    "SandwichResult",
    "StepOptions",
    "Task",
    "distillation_of",
    "follow_mode",
    "logits_of",
    "nested_step",
    "parameter_groups",
    "same_start",
    "sandwich_step",
    "soft_cross_entropy",
    "sync_gradients",
]
