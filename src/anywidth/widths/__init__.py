"""Widths and width configs."""

from anywidth.widths.budgets import Budget, parse_budget, parse_budgets
from anywidth.widths.config import Width, WidthConfig, check_width, resolve
from anywidth.widths.rounding import make_divisible, round_channels
from anywidth.widths.sample import Ends, WidthSampler

__all__ = [
    "Budget",
    "Ends",
    "Width",
    "WidthConfig",
    "WidthSampler",
    "check_width",
    "make_divisible",
    "parse_budget",
    "parse_budgets",
    "resolve",
    "round_channels",
]
