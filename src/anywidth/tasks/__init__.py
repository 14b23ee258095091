"""Tasks: what a network is trained for, and what follows from its loss."""

# Each of these registers the losses that it knows.
from anywidth.tasks.binary import BinaryCrossEntropy
from anywidth.tasks.cross_entropy import CrossEntropy
from anywidth.tasks.known import KnownLoss, loss_name, recognise
from anywidth.tasks.numbers import NumberError
from anywidth.tasks.objective import Logits, Objective, TaskObjective, distillation_of, objective_of
from anywidth.tasks.outputs import detached, logits_of
from anywidth.tasks.soft_cross_entropy import soft_cross_entropy
from anywidth.tasks.task import DistillationFunction, Distillations, Loss, Task

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "DistillationFunction",
    "Distillations",
    "KnownLoss",
    "Logits",
    "Loss",
    "NumberError",
    "Objective",
    "Task",
    "TaskObjective",
    "detached",
    "distillation_of",
    "logits_of",
    "loss_name",
    "objective_of",
    "recognise",
    "soft_cross_entropy",
]
