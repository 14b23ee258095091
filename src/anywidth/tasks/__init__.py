"""Tasks: the training objective of a network, and the losses that define one."""

# Importing these modules registers the losses that they support.
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
