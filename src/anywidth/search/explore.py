"""Evolutionary and random search over the same networks and costs, which greedy slimming is compared to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from anywidth.core.errors import SearchError
from anywidth.core.extras import from_extra
from anywidth.search.budgets import Budget
from anywidth.search.greedy import Found
from anywidth.search.judge import Judge
from anywidth.search.result import SearchResult
from anywidth.search.scores import Evaluated
from anywidth.widths import WidthConfig

__all__ = ["Method", "explore"]

Method = Literal["evolution", "random"]

_POPULATION = 24
_TRIES = 40
"""Networks outside of all budgets cost nothing but time; so many are drawn for each that is evaluated."""


def explore(
    judge: Judge,
    budgets: object,
    *,
    method: Method = "evolution",
    evaluations: int = 200,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> SearchResult:
    """The best network for every budget among those that another search than the greedy one looks at.

    Sizes of groups, score and cost are those of `autoslim`. Both methods are Optuna's: `evolution` is NSGA-II with
    accuracy and cost as its two objectives, so that one population serves all budgets, and `random` draws the size of
    every group alike. Optuna, because it has both behind one interface, takes limits as constraints and is maintained.
    Networks outside of all budgets are drawn, but not evaluated.

    Args:
        judge: Scores and costs; it may be one that has served another search, whose networks are then known, but do not
            count as looked at.
        budgets: As in `autoslim`.
        method: `evolution` or `random`.
        evaluations: How many networks to score.
        seed: Of the search.
        progress: Called with how many are scored, and how many will be.

    Raises:
        MissingExtraError: Optuna is not installed.
        SearchError: a budget is out of reach, or no network within one was met.

    Source: NSGA-II, Deb et al. 2002 (doi 10.1109/4235.996017).

    >>> import torch
    >>> from torch import nn
    >>> import anywidth as aw
    >>> from anywidth.search import SearchData
    >>> net = aw.Supernet(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), torch.randn(1, 4))
    >>> data = SearchData.split([(torch.randn(20, 4), torch.zeros(20).long())])
    >>> found = explore(Judge(net, data, aw.macs), "60%", method="random", evaluations=5)
    >>> aw.macs(net, found[0]) <= 0.6 * aw.macs(net)
    True
    """
    if method not in get_args(Method):
        raise SearchError(f"method is {method!r}; choose evolution or random")
    if evaluations < 1:
        raise SearchError(f"{evaluations} networks cannot be searched; evaluate at least 1")
    limits = judge.budgets(budgets)
    study = _study(method, seed)
    looked: dict[WidthConfig, Evaluated] = {}
    with judge.keeping():
        for _ in range(_TRIES * evaluations):
            if len(looked) >= evaluations:
                break
            trial = study.ask()
            config = WidthConfig(
                {name: sizes[trial.suggest_int(name, 0, len(sizes) - 1)] for name, sizes in judge.options.items()}
            )
            cost = judge.cost_of(config)
            outside = _outside(limits, cost)
            trial.set_constraint("budget", outside)
            if outside > 0:
                study.tell(trial, [0.0, cost])
                continue
            if config not in looked:
                looked[config] = judge.look(config)
                progress(len(looked), evaluations)
            study.tell(trial, [looked[config].accuracy, cost])
    return SearchResult(
        cost=judge.cost.name,
        unit=judge.cost.unit,
        full=dict(judge.widest),
        steps=[],
        found=[Found(budget=budget, network=_best(looked.values(), budget)) for budget in limits],
        evaluated=list(looked.values()),
        about={"method": method, "evaluations": len(looked), "seed": seed},
    )


def _outside(limits: Sequence[Budget], cost: float) -> float:
    """How far a cost is from the nearest budget, as a share of it; 0 within one."""
    return min(max(cost - budget.high, budget.low - cost, 0.0) / budget.high for budget in limits)


def _best(looked: Any, budget: Budget) -> Evaluated:
    inside = [network for network in looked if budget.admits(network.cost)]
    if not inside:
        raise SearchError(f"the search met no network within budget {budget}; give it more evaluations")
    return max(inside, key=lambda network: (network.accuracy, -network.loss, -network.cost))


def _study(method: Method, seed: int) -> Any:
    with from_extra("search", "this search needs Optuna"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = optuna.samplers
    sampler = (
        samplers.NSGAIISampler(population_size=_POPULATION, seed=seed)
        if method == "evolution"
        else samplers.RandomSampler(seed=seed)
    )
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
