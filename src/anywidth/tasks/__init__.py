"""Tasks: the training objective of a network, and the losses that define one."""

# Importing these modules registers the losses that they support.
from anywidth.tasks.binary import BinaryCrossEntropy
from anywidth.tasks.classification import Classification, MultiLabel
from anywidth.tasks.cross_entropy import CrossEntropy
from anywidth.tasks.detection import Detection
from anywidth.tasks.from_loss import TaskFromLoss
from anywidth.tasks.known import KnownLoss, loss_name, recognise
from anywidth.tasks.metric_values import MetricValues, metric_values
from anywidth.tasks.objective import Logits, Objective, TaskObjective, distillation_of, objective_of
from anywidth.tasks.outputs import detached, logits_of
from anywidth.tasks.quantity import ACCURACY, Quantity, metrics_of
from anywidth.tasks.regression import Regression
from anywidth.tasks.regression_losses import NumberError
from anywidth.tasks.segmentation import Segmentation
from anywidth.tasks.soft_cross_entropy import soft_cross_entropy
from anywidth.tasks.super_resolution import SuperResolution
from anywidth.tasks.task import DistillationFunction, Distillations, Loss, MeasuredTask, Task
from anywidth.tasks.token_classification import TokenClassification

__all__ = [
    "ACCURACY",
    "BinaryCrossEntropy",
    "Classification",
    "CrossEntropy",
    "Detection",
    "DistillationFunction",
    "Distillations",
    "KnownLoss",
    "Logits",
    "Loss",
    "MeasuredTask",
    "MetricValues",
    "MultiLabel",
    "NumberError",
    "Objective",
    "Quantity",
    "Regression",
    "Segmentation",
    "SuperResolution",
    "Task",
    "TaskFromLoss",
    "TaskObjective",
    "TokenClassification",
    "detached",
    "distillation_of",
    "logits_of",
    "loss_name",
    "metric_values",
    "metrics_of",
    "objective_of",
    "recognise",
    "soft_cross_entropy",
]
