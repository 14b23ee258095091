"""What a network is trained for, as far as a training step asks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from torch import Tensor

__all__ = ["DistillationFunction", "Distillations", "Loss", "Task", "takes_target"]

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
"""What a step accepts as `distillation`: `"auto"`, a function, or one of them for each of several tensors."""

_asks: WeakKeyDictionary[Callable[..., Any], bool] = WeakKeyDictionary()
"""Functions whose parameters were read, which takes as long as a small distillation."""


@runtime_checkable
class Task(Protocol):
    """A loss on the targets, and what narrower widths learn from a teacher.

    `output` is what the model returns, unchanged. Gradients may flow to `output` only; the teacher comes detached.

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
        """The loss on the targets, a scalar: what the widest learns."""
        ...

    def distill(self, output: Any, teacher: Any) -> Tensor:
        """The loss against a teacher's output, a scalar: what narrower widths learn.

        A third parameter named `target` receives the targets, such as to leave out padding.
        """
        ...


def takes_target(function: Callable[..., Any]) -> bool:
    """Whether a distillation has a third parameter named `target`.

    >>> takes_target(lambda student, teacher, target: student), takes_target(lambda student, target: student)
    (True, False)
    """
    try:
        return _asks[function]
    except (KeyError, TypeError):  # not seen yet, or neither hashable nor weakly referenced
        pass
    try:
        found = "target" in list(inspect.signature(function).parameters)[2:]
    except (TypeError, ValueError):  # functions written in C may not say
        found = False
    with suppress(TypeError):
        _asks[function] = found
    return found
