"""Search by any method."""

from __future__ import annotations

from collections.abc import Callable

from anywidth.search.methods import METHODS, Progress
from anywidth.search.result import SearchResult
from anywidth.search.scorer import Scorer

__all__ = ["search"]


def search(
    scorer: Scorer,
    budgets: object,
    method: str = "greedy",
    *,
    evaluations: int = 200,
    seed: int = 0,
    progress: Callable[[Progress], object] = lambda _: None,
) -> SearchResult:
    """Best network for every budget, as found by a method.

    Group sizes, scores and costs are the same for all methods. Networks that the scorer already knows from another
    search take no time.

    Args:
        scorer: Scores and costs.
        budgets: As in `autoslim`.
        method: `greedy` (AutoSlim), `evolution`, `random`, or a method of another package; see `docs/extending.md`.
        evaluations: Number of networks to score; greedy slimming ignores it and ends by itself.
        seed: Random seed; greedy slimming is deterministic.
        progress: Called often, with a `Progress`.

    Raises:
        MissingExtraError: Optuna is not installed, which evolution and random search need.
        BudgetError: a budget cannot be parsed, or limits another quantity than the cost.
        SearchError: the method is unknown, or a budget is out of reach or was not met.

    >>> import torch
    >>> from torch import nn
    >>> import anywidth as aw
    >>> from anywidth.search import SearchData
    >>> net = aw.Supernet(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), torch.randn(1, 4))
    >>> data = SearchData.split([(torch.randn(20, 4), torch.zeros(20).long())])
    >>> found = search(Scorer(net, data, aw.macs), "60%", "random", evaluations=5)
    >>> aw.macs(net, found[0]) <= 0.6 * aw.macs(net)
    True
    """
    run = METHODS.find(method).run
    with scorer.keeping():
        outcome = run(scorer, scorer.budgets(budgets), evaluations=evaluations, seed=seed, progress=progress)
    return SearchResult(
        cost=scorer.cost.name,
        unit=scorer.cost.unit,
        full=dict(scorer.widest),
        steps=outcome.steps,
        found=outcome.found,
        evaluated=outcome.evaluated,
        quantity=scorer.quantity,
        about=outcome.about,
    )
