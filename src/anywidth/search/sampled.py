"""Search by sampling networks with Optuna."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from anywidth.core.errors import SearchError
from anywidth.core.extras import from_extra
from anywidth.search.found import best_within
from anywidth.search.methods.registry import Outcome, Progress
from anywidth.search.scorer import Scorer
from anywidth.search.scores import Evaluated
from anywidth.widths import Budget, WidthConfig

__all__ = ["sampled_search"]

_TRIES = 40
"""Networks outside all budgets cost only time; at most this many are drawn per evaluated network."""


def sampled_search(
    scorer: Scorer,
    budgets: Sequence[Budget],
    *,
    name: str,
    sampler: Callable[[Any, int], Any],
    evaluations: int,
    seed: int,
    progress: Callable[[Progress], object],
) -> Outcome:
    """Best network for every budget among those that an Optuna sampler draws.

    Networks outside all budgets are drawn but not evaluated. Networks that the scorer already knows count as evaluated
    when they are drawn. Optuna offers evolution and random search behind one interface and supports limits as
    constraints.

    Args:
        scorer: Scores and costs.
        budgets: Budgets in the unit of the cost.
        name: Name of the method, which is stored in the result.
        sampler: Creates the sampler from the module `optuna.samplers` and a seed.
        evaluations: Number of networks to score.
        seed: Seed of the sampler.
        progress: Called after every network.

    Raises:
        MissingExtraError: Optuna is not installed.
        SearchError: no network within a budget was drawn.
    """
    if evaluations < 1:
        raise SearchError(f"evaluations is {evaluations}; give at least 1")
    study = _study(sampler, seed)
    evaluated: dict[WidthConfig, Evaluated] = {}
    for _ in range(_TRIES * evaluations):
        if len(evaluated) >= evaluations:
            break
        trial = study.ask()
        config = WidthConfig(
            {group: sizes[trial.suggest_int(group, 0, len(sizes) - 1)] for group, sizes in scorer.options.items()}
        )
        cost = scorer.cost_of(config)
        outside = _outside(budgets, cost)
        trial.set_constraint("budget", outside)
        if outside > 0:
            study.tell(trial, [0.0, cost])
            continue
        if config not in evaluated:
            evaluated[config] = scorer.evaluate(config)
            count = len(evaluated)
            progress(Progress(candidate=count, candidates=evaluations, share=count / evaluations))
        study.tell(trial, [evaluated[config].rank, cost])
    return Outcome(
        found=best_within(evaluated.values(), budgets),
        evaluated=list(evaluated.values()),
        about={"method": name, "evaluations": len(evaluated), "seed": seed},
    )


def _outside(budgets: Sequence[Budget], cost: float) -> float:
    """Relative distance of a cost from the nearest budget; 0 within one."""
    return min(max(cost - budget.high, budget.low - cost, 0.0) / budget.high for budget in budgets)


def _study(sampler: Callable[[Any, int], Any], seed: int) -> Any:
    with from_extra("search", "this search needs Optuna"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler(optuna.samplers, seed))
