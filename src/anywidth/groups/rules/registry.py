"""The table of operator rules: how labels pass through each ATen operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from anywidth.groups.flow import Flow, Value

__all__ = ["Call", "Result", "Rule", "adds_up", "find_rule", "rule"]

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
        """All tensor arguments, those inside lists too."""
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
_RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators, named as in `aten.conv2d` (all overloads) or `aten.add.Tensor`.

    A rule gets the flow and the call, merges or freezes labels, and returns a `Value` with the result's facets
    (a list of them for several results, None for no labels).
    """

    def register(function: Rule) -> Rule:
        for operator in operators:
            _RULES[operator] = function
        return function

    return register


def find_rule(names: Sequence[str]) -> Rule | None:
    """The rule for the first of several names of an operator that has one."""
    return next((_RULES[name] for name in names if name in _RULES), None)


def adds_up(name: str) -> bool:
    """Whether an operator with a rule does more than to work on each element alone, or to move elements.

    >>> adds_up("aten.layer_norm"), adds_up("aten.relu"), adds_up("aten.cat")
    (True, False, False)
    """
    found = _RULES.get(name)
    return found is not None and found.__module__.rpartition(".")[2] not in _ELEMENTS


_ELEMENTS = ("control", "indexing", "movement", "pieces", "pointwise")
