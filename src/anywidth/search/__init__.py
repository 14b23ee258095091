"""The search for channel numbers: greedy slimming, and what it is compared to."""

from anywidth.search.autoslim import autoslim, slim
from anywidth.search.budgets import Budget, parse_budget, parse_budgets
from anywidth.search.channels import config_from_channels, layers
from anywidth.search.evaluator import Evaluator
from anywidth.search.explore import Method, explore
from anywidth.search.greedy import Found, Progress, Step, descend
from anywidth.search.judge import Judge
from anywidth.search.pareto import pareto
from anywidth.search.plan import sizes
from anywidth.search.result import SearchResult
from anywidth.search.scores import Evaluated, Score
from anywidth.search.settings import Objective, SearchSettings
from anywidth.search.split import SearchData
from anywidth.search.uniform import uniform_costs

__all__ = [
    "Budget",
    "Evaluated",
    "Evaluator",
    "Found",
    "Judge",
    "Method",
    "Objective",
    "Progress",
    "Score",
    "SearchData",
    "SearchResult",
    "SearchSettings",
    "Step",
    "autoslim",
    "config_from_channels",
    "descend",
    "explore",
    "layers",
    "pareto",
    "parse_budget",
    "parse_budgets",
    "sizes",
    "slim",
    "uniform_costs",
]
