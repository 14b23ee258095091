"""Greedy slimming: repeatedly make the removal that costs the least score."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from anywidth.core.errors import SearchError
from anywidth.search.found import Found, Step
from anywidth.search.methods.registry import METHODS, Outcome, Progress, SearchMethod
from anywidth.search.plan import narrower
from anywidth.search.scorer import Scorer
from anywidth.search.scores import Evaluated
from anywidth.search.settings import Objective
from anywidth.widths import Budget

__all__ = ["GREEDY", "choose", "descend"]


def descend(
    scorer: Scorer,
    budgets: Sequence[Budget],
    *,
    progress: Callable[[Progress], object] = lambda _: None,
    steps: int | None = None,
) -> tuple[list[Step], list[Found]]:
    """All steps from the widest network down to the smallest budget, and the network for every budget.

    Each step tries one removal from each group and keeps the one with the best score; ties go to the lower loss.
    Each budget takes the first network that meets it.

    Args:
        scorer: Scores and costs.
        budgets: Budgets in the unit of the cost, largest first; see `Scorer.budgets`.
        progress: Called before every evaluation and after every step.
        steps: Number of steps after which to stop, for measurements.

    Raises:
        SearchError: no sequence of removals meets a budget, or a score or cost is not a number.

    Source: AutoSlim (arXiv 1903.11728).
    """
    now = scorer.evaluate(scorer.widest)
    log = [Step(number=0, group=None, channels=None, network=now, candidates=0, seconds=0.0)]
    waiting, found = list(budgets), []
    start, target = now.cost, budgets[-1].high
    while waiting and (steps is None or len(log) <= steps):
        began = time.perf_counter()
        configs = narrower(now.config, scorer.options)
        floor = max(budget.low for budget in waiting)
        inside = {name: config for name, config in configs.items() if scorer.cost_of(config) >= floor}
        if not inside:
            raise SearchError(
                _out_of_reach(waiting, now, [scorer.cost_of(c) for c in configs.values()], scorer.cost.unit)
            )
        candidates: dict[str, Evaluated] = {}
        for name, config in inside.items():
            share = min(1.0, max(0.0, (start - now.cost) / (start - target))) if start > target else 1.0
            progress(Progress(steps=log, candidate=len(candidates), candidates=len(inside), share=share))
            candidates[name] = scorer.evaluate(config, base=now.config)
        name = choose(candidates, now, scorer.settings.objective)
        now = candidates[name]
        seconds = time.perf_counter() - began
        log.append(
            Step(number=len(log), group=name, channels=now.config[name], network=now, candidates=len(inside),
                 seconds=round(seconds, 3))
        )  # fmt: skip
        scorer.state.save()
        met = [budget for budget in waiting if budget.admits(now.cost)]
        found += [Found(budget=budget, network=now) for budget in met]
        waiting = [budget for budget in waiting if budget not in met]
    progress(Progress(steps=log, candidate=0, candidates=0, share=1.0))
    order = {budget: number for number, budget in enumerate(budgets)}
    return log, sorted(found, key=lambda item: order[item.budget])


def choose(candidates: Mapping[str, Evaluated], now: Evaluated, objective: Objective = "score") -> str:
    """Name of the removal to keep.

    >>> from anywidth.widths import WidthConfig
    >>> def network(score: float, loss: float, cost: float) -> Evaluated:
    ...     return Evaluated(config=WidthConfig({}), score=score, loss=loss, cost=cost)
    >>> removals = {"a": network(89.0, 0.4, 70.0), "b": network(89.5, 0.4, 98.0), "c": network(89.5, 0.3, 99.0)}
    >>> choose(removals, network(90.0, 0.3, 100.0)), choose(removals, network(90.0, 0.3, 100.0), "per-cost")
    ('c', 'a')
    """

    def worse(name: str) -> tuple[float, float, float]:
        other = candidates[name]
        lost, more = now.rank - other.rank, other.loss - now.loss
        if objective == "score":
            return lost, other.loss, other.cost
        # Measured costs are noisy: a removal that appears to save nothing comes last.
        saved = max(now.cost - other.cost, 1e-9 * now.cost)
        return lost / saved, more / saved, other.cost

    return min(candidates, key=worse)


def _out_of_reach(waiting: Sequence[Budget], now: Evaluated, costs: Sequence[float], unit: str) -> str:
    budget = max(waiting, key=lambda item: item.low)
    if not costs:
        return f"the search ended at {now.cost:.6g} {unit} with nothing left to remove; budget {budget} was not met"
    return (
        f"no removal from the network of {now.cost:.6g} {unit} meets budget {budget}: they lead to "
        f"{min(costs):.6g} to {max(costs):.6g}; give a wider interval, or a smaller step_fraction"
    )


def _run(
    scorer: Scorer,
    budgets: Sequence[Budget],
    *,
    evaluations: int,
    seed: int,
    progress: Callable[[Progress], object],
) -> Outcome:
    steps, found = descend(scorer, budgets, progress=progress)
    return Outcome(found=found, evaluated=scorer.state.evaluated, steps=steps)


GREEDY = METHODS.add(SearchMethod(name="greedy", run=_run))
