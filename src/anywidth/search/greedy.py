"""Greedy slimming: piece by piece, the removal that costs least accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from anywidth.core.errors import SearchError
from anywidth.search.budgets import Budget
from anywidth.search.judge import Judge
from anywidth.search.plan import narrower
from anywidth.search.scores import Evaluated
from anywidth.search.settings import Objective

__all__ = ["Found", "Progress", "Step", "choose", "descend"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One removal; the first step, without a group, is the widest network.

    Attributes:
        number: Counted from 0.
        group: What became narrower.
        channels: What it has since then.
        network: The network after the removal.
        candidates: How many removals there were to choose from.
        seconds: How long it took; 0 if everything was known.
    """

    number: int
    group: str | None
    channels: int | None
    network: Evaluated
    candidates: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Found:
    """The network for a budget."""

    budget: Budget
    network: Evaluated


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a descent is.

    Attributes:
        steps: The steps so far.
        candidate: How many candidates of the next step are evaluated.
        candidates: How many it has.
        share: How much of the way from the widest network's cost to the last budget lies behind, in [0, 1].
    """

    steps: Sequence[Step]
    candidate: int
    candidates: int
    share: float


def descend(
    judge: Judge,
    budgets: Sequence[Budget],
    *,
    progress: Callable[[Progress], object] = lambda _: None,
    steps: int | None = None,
) -> tuple[list[Step], list[Found]]:
    """All steps from the widest network down to the smallest budget, and the network for every budget.

    At each step one piece is removed from each group in turn, and the removal that leaves the highest accuracy stays;
    ties go to the lower loss. A network is taken for a budget as soon as it meets it.

    Args:
        judge: Scores and costs.
        budgets: In the unit of the cost, the largest first; see `Judge.budgets`.
        progress: Called before every evaluation and after every step.
        steps: Stop after this many, for measurements.

    Raises:
        SearchError: no sequence of removals meets a budget, or a score or cost is no number.

    Source: AutoSlim (arXiv 1903.11728).
    """
    now = judge.look(judge.widest)
    log = [Step(number=0, group=None, channels=None, network=now, candidates=0, seconds=0.0)]
    waiting, found = list(budgets), []
    start, target = now.cost, budgets[-1].high
    while waiting and (steps is None or len(log) <= steps):
        began = time.perf_counter()
        configs = narrower(now.config, judge.options)
        floor = max(budget.low for budget in waiting)
        inside = {name: config for name, config in configs.items() if judge.cost_of(config) >= floor}
        if not inside:
            raise SearchError(
                _out_of_reach(waiting, now, [judge.cost_of(c) for c in configs.values()], judge.cost.unit)
            )
        candidates: dict[str, Evaluated] = {}
        for name, config in inside.items():
            share = min(1.0, max(0.0, (start - now.cost) / (start - target))) if start > target else 1.0
            progress(Progress(steps=log, candidate=len(candidates), candidates=len(inside), share=share))
            candidates[name] = judge.look(config, base=now.config)
        name = choose(candidates, now, judge.settings.objective)
        now = candidates[name]
        seconds = time.perf_counter() - began
        log.append(
            Step(number=len(log), group=name, channels=now.config[name], network=now, candidates=len(inside),
                 seconds=round(seconds, 3))
        )  # fmt: skip
        judge.state.save()
        met = [budget for budget in waiting if budget.admits(now.cost)]
        found += [Found(budget=budget, network=now) for budget in met]
        waiting = [budget for budget in waiting if budget not in met]
    progress(Progress(steps=log, candidate=0, candidates=0, share=1.0))
    order = {budget: number for number, budget in enumerate(budgets)}
    return log, sorted(found, key=lambda item: order[item.budget])


def choose(candidates: Mapping[str, Evaluated], now: Evaluated, objective: Objective = "accuracy") -> str:
    """The name of the removal that stays.

    >>> from anywidth.widths import WidthConfig
    >>> def network(accuracy: float, loss: float, cost: float) -> Evaluated:
    ...     return Evaluated(config=WidthConfig({}), accuracy=accuracy, loss=loss, cost=cost)
    >>> removals = {"a": network(89.0, 0.4, 70.0), "b": network(89.5, 0.4, 98.0), "c": network(89.5, 0.3, 99.0)}
    >>> choose(removals, network(90.0, 0.3, 100.0)), choose(removals, network(90.0, 0.3, 100.0), "per-cost")
    ('c', 'a')
    """

    def worse(name: str) -> tuple[float, float, float]:
        other = candidates[name]
        lost, more = now.accuracy - other.accuracy, other.loss - now.loss
        if objective == "accuracy":
            return lost, other.loss, other.cost
        # Measured costs are noisy: a removal that seems to save nothing is the last choice.
        saved = max(now.cost - other.cost, 1e-9 * now.cost)
        return lost / saved, more / saved, other.cost

    return min(candidates, key=worse)


def _out_of_reach(waiting: Sequence[Budget], now: Evaluated, costs: Sequence[float], unit: str) -> str:
    budget = max(waiting, key=lambda item: item.low)
    if not costs:
        return f"the search ended at {now.cost:.6g} {unit} with nothing left to remove; budget {budget} was not met"
    return (
        f"no removal from the network of {now.cost:.6g} {unit} ends in budget {budget}: they lead to "
        f"{min(costs):.6g} to {max(costs):.6g}; give a wider interval, or smaller pieces"
    )
