"""The task protocols: what a training step needs, and what an evaluation needs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from torch import Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric

__all__ = ["DistillationFunction", "Distillations", "Loss", "MeasuredTask", "Task", "plain_attributes", "takes_target"]

Loss = Callable[[Any, Any], Tensor]
"""`loss(output, targets)`, a scalar."""

DistillationFunction = Callable[..., Tensor]
"""`distillation(student, teacher)` or `distillation(student, teacher, target)`, a scalar."""

Distillations = (
    Literal["auto"]
    | DistillationFunction
    | Sequence[Literal["auto"] | DistillationFunction | None]
    | Mapping[str, Literal["auto"] | DistillationFunction | None]
)
"""Accepted values of `distillation`: `"auto"`, a function, or one of these for each of several tensors."""

_asks: WeakKeyDictionary[Callable[..., Any], bool] = WeakKeyDictionary()
"""Cache of inspected signatures; inspection takes as long as a small distillation."""


@runtime_checkable
class Task(Protocol):
    """A loss on the targets, and a distillation for narrower widths.

    `output` is the model's unchanged output. The teacher's output is detached, so gradients flow to `output` only. An
    optional method `check(output, target, values=...)` raises a `LossError` before the first step if they do not fit.

    >>> import torch.nn.functional as F
    >>> class TwoHeads:
    ...     def loss(self, output, target):
    ...         return F.cross_entropy(output["class"], target["class"]) + F.mse_loss(output["box"], target["box"])
    ...
    ...     def distill(self, output, teacher):
    ...         soft = teacher["class"].softmax(1)
    ...         return F.cross_entropy(output["class"], soft) + F.mse_loss(output["box"], teacher["box"])
    >>> isinstance(TwoHeads(), Task)
    True
    """

    def loss(self, output: Any, target: Any) -> Tensor:
        """Loss on the targets, a scalar, which the widest network learns."""
        ...

    def distill(self, output: Any, teacher: Any) -> Tensor:
        """Loss against a teacher's output, a scalar, which narrower widths learn.

        An optional third parameter named `target` receives the targets, for example to mask padding.
        """
        ...


@runtime_checkable
class MeasuredTask(Task, Protocol):
    """A task that also has metrics and predictions, for `evaluate`, `spectrum` and `autoslim`."""

    def metrics(self) -> Mapping[str, Metric]:
        """Metrics of torchmetrics by name, which compare `predict(output)` with the targets.

        The first ranks widths, in the direction of its `higher_is_better`. An attribute `unit` is shown in tables.
        """
        ...

    def predict(self, output: Any) -> Any:
        """What a user receives for a model's output, such as class probabilities or boxes."""
        ...


def takes_target(function: Callable[..., Any]) -> bool:
    """Whether a distillation has a third parameter named `target`.

    >>> takes_target(lambda student, teacher, target: student), takes_target(lambda student, target: student)
    (True, False)
    """
    try:
        return _asks[function]
    except (KeyError, TypeError):  # not cached yet, or neither hashable nor weakly referenceable
        pass
    try:
        found = "target" in list(inspect.signature(function).parameters)[2:]
    except (TypeError, ValueError):  # functions written in C may lack a signature
        found = False
    with suppress(TypeError):
        _asks[function] = found
    return found


def plain_attributes(thing: object) -> list[str]:
    """Names and values of the attributes that are numbers, flags or strings, sorted by name.

    >>> from types import SimpleNamespace
    >>> plain_attributes(SimpleNamespace(scale=2, name="x", parts=[1]))
    ["name='x'", 'scale=2']
    """
    return [f"{name}={value!r}" for name, value in sorted(vars(thing).items()) if isinstance(value, (int, float, str))]
