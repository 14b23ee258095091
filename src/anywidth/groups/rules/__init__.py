"""One small rule per ATen operator: how channel labels pass through it."""

from anywidth.groups.rules import contraction, control, experts, movement, pieces, pointwise, recurrent, reduction
from anywidth.groups.rules.registry import Call, Result, Rule, find_rule, rule

__all__ = [
    "Call",
    "Result",
    "Rule",
    "contraction",
    "control",
    "experts",
    "find_rule",
    "movement",
    "pieces",
    "pointwise",
    "recurrent",
    "reduction",
    "rule",
]
