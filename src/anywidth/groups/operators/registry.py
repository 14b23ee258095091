"""The registry of operators: their label rules, and their treatment in the proof and the counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from anywidth.core.errors import AnywidthError
from anywidth.core.registry import Registry
from anywidth.groups.flow import Flow
from anywidth.groups.value import Value

__all__ = ["NOTHING_KNOWN", "OPERATORS", "Call", "Operator", "Result", "Rule", "adds_up", "find_operator", "operator"]

Result = Value | list[Value] | None


@dataclass(frozen=True)
class Call:
    """One operator call: the node, its arguments with values in place of nodes, and the shapes of its results."""

    node: Node
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.shapes[0]

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or keyword."""
        if len(self.args) > index:
            return self.args[index]
        return self.kwargs.get(name, default)

    def values(self) -> list[Value]:
        """All tensor arguments, including those inside lists."""
        found: list[Value] = []

        def walk(item: Any) -> None:
            if isinstance(item, Value):
                found.append(item)
            elif isinstance(item, (list, tuple)):
                for part in item:
                    walk(part)

        walk(self.args)
        walk(tuple(self.kwargs.values()))
        return found


Rule = Callable[[Flow, Call], Result]
MaskedRun = Callable[[str, Tensor, Any, Any, Node], Any]


def _never(node: Node) -> bool:
    return False


@dataclass(frozen=True)
class Operator:
    """The record of one operator, for the analysis, the proof and the counts."""

    name: str
    """Name, such as `aten.conv2d` (all overloads) or `aten.add.Tensor`."""
    labels: Rule
    """The label rule: it receives the flow and the call, merges or freezes labels, and returns a `Value` with the
    labels of the result (a list for several results, None for no labels). It counts MACs by `Flow.record`."""
    shape_follows: bool = False
    """Whether the result may follow what it meets if the first operand may."""
    free: bool = False
    """Whether it computes nothing, so it is not listed as uncounted."""
    adds_up: bool = True
    """Whether it does more than process elements separately or move them."""
    view: bool = False
    """Whether the result shares the memory of the first operand."""
    by_weight: bool = False
    """Whether its first operand is multiplied by a weight, which removes dropped channels."""
    per_channel: bool = False
    """Whether dropped channels of an operand affect only dropped channels of the result, as finite numbers."""
    masked: MaskedRun | None = None
    """Runs the operator over the kept channels, given name, mask of the first operand, arguments, keywords, node."""
    compacted: Callable[[Node], bool] = _never
    """Whether the masked network runs a call on tensors without the dropped channels."""


OPERATORS = Registry(
    Operator,
    kind="operator",
    package="anywidth.groups.operators",
    group="anywidth.operators",
    error=AnywidthError,
)


def operator(*names: str, **facts: Any) -> Callable[[Rule], Rule]:
    """Decorator that adds one record per name, with the decorated function as the rule and the given fields."""

    def register(function: Rule) -> Rule:
        for name in names:
            OPERATORS.add(Operator(name, function, **facts))
        return function

    return register


def find_operator(target: Any) -> Operator | None:
    """The record of a node's target: of its overload, its operator, or the operator whose in-place form it is."""
    overload = target if isinstance(target, torch._ops.OpOverload) else None
    name = str(target) if overload is not None else getattr(target, "__name__", str(target))
    base = name.rsplit(".", 1)[0] if overload is not None else name
    pointwise = overload is not None and torch.Tag.pointwise in overload.tags
    return OPERATORS.first_of((name, base, base.rstrip("_")), "unlisted pointwise" if pointwise else None)


def adds_up(name: str) -> bool:
    """Whether an operator with a record does more than process elements separately or move them.

    >>> adds_up("aten.layer_norm"), adds_up("aten.relu"), adds_up("aten.cat")
    (True, False, False)
    """
    found = OPERATORS.first_of((name,))
    return found is not None and found.adds_up


NOTHING_KNOWN = Operator("", lambda flow, call: None)
