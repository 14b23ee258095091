"""Search for channel numbers: greedy slimming, evolution and random search."""

from anywidth.search.autoslim import autoslim
from anywidth.search.channels import config_from_channels, layers
from anywidth.search.evaluator import Evaluator
from anywidth.search.found import Found, Step, best_within
from anywidth.search.methods import METHODS, Outcome, Progress, SearchMethod
from anywidth.search.pareto import pareto
from anywidth.search.plan import sizes
from anywidth.search.result import SearchResult
from anywidth.search.scorer import Scorer
from anywidth.search.scores import Evaluated, Score
from anywidth.search.search import search
from anywidth.search.settings import Objective, SearchSettings
from anywidth.search.split import SearchData
from anywidth.search.uniform import uniform_costs

__all__ = [
    "METHODS",
    "Evaluated",
    "Evaluator",
    "Found",
    "Objective",
    "Outcome",
    "Progress",
    "Score",
    "Scorer",
    "SearchData",
    "SearchMethod",
    "SearchResult",
    "SearchSettings",
    "Step",
    "autoslim",
    "best_within",
    "config_from_channels",
    "layers",
    "pareto",
    "search",
    "sizes",
    "uniform_costs",
]
