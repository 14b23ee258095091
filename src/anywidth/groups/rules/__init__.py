"""One small rule per ATen operator: how channel labels pass through it."""

from anywidth.groups.rules import (
    comparison,
    contraction,
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
from anywidth.groups.rules.registry import Call, Result, Rule, find_rule, rule

__all__ = [
    "Call",
    "Result",
    "Rule",
    "comparison",
    "contraction",
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
