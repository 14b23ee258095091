"""One small rule per ATen operator: how channel labels pass through it."""

from anywidth.groups.rules import (
    comparison,
    contraction,
    control,
    experts,
    fourier,
    indexing,
    movement,
    ordering,
    pieces,
    pointwise,
    products,
    quantisation,
    recurrent,
    reduction,
    vision,
)
from anywidth.groups.rules.registry import Call, Result, Rule, adds_up, find_rule, rule

__all__ = [
    "Call",
    "Result",
    "Rule",
    "adds_up",
    "comparison",
    "contraction",
    "control",
    "experts",
    "find_rule",
    "fourier",
    "indexing",
    "movement",
    "ordering",
    "pieces",
    "pointwise",
    "products",
    "quantisation",
    "recurrent",
    "reduction",
    "rule",
    "vision",
]
