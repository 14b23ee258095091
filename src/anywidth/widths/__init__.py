"""Widths and width configs: frozen values."""

from anywidth.widths.budgets import Budget, parse_budget, parse_budgets
from anywidth.widths.config import Width, WidthConfig, check_width, resolve, round_channels
from anywidth.widths.rounding import make_divisible
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
