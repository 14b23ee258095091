"""Scores and costs of width configs, each computed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.nn.functional as F

from anywidth.core.errors import SearchError
from anywidth.cost import Cost, named_cost
from anywidth.evaluation import Score as ScoreFunction
from anywidth.evaluation.quantity import quantity_of
from anywidth.search.evaluator import Evaluator
from anywidth.search.plan import space
from anywidth.search.reach import reachable
from anywidth.search.scores import Evaluated
from anywidth.search.settings import SearchSettings
from anywidth.search.split import SearchData
from anywidth.search.state import State, fingerprint
from anywidth.supernet import Supernet
from anywidth.tasks import Logits, Loss, Task, logits_of, loss_name
from anywidth.tasks.task import plain_attributes
from anywidth.widths import Budget, WidthConfig

__all__ = ["Scorer"]


class Scorer:
    """Scores and costs for one supernet, dataset and cost; several searches can share them.

    Args:
        net: The supernet.
        data: Calibration and held-out images.
        cost: `cost(net, config)`.
        settings: See `SearchSettings`.
        score: As in `anywidth.evaluate`.
        loss: As in `autoslim`.
        task: As in `autoslim`.
        logits: As in `autoslim`.
        state: File for intermediate results.
    """

    def __init__(
        self,
        net: Supernet,
        data: SearchData,
        cost: Cost,
        *,
        settings: SearchSettings | None = None,
        score: ScoreFunction | None = None,
        loss: Loss | None = None,
        task: Task | None = None,
        logits: Logits = logits_of,
        state: Path | None = None,
    ) -> None:
        self.net = net
        self.cost = named_cost(cost)
        self.settings = settings or SearchSettings()
        self.quantity = quantity_of(score, None if score else task)
        self.options = space(net, step_fraction=self.settings.step_fraction)
        self.widest = net.config(1.0)
        self.narrowest = WidthConfig({name: sizes[-1] for name, sizes in self.options.items()})
        self.evaluator = Evaluator(
            net, data, score=score, loss=loss, task=task, logits=logits, memory=self.settings.memory,
            channels_last=self.settings.channels_last,
        )  # fmt: skip
        # A latency model has an identity of its own.
        which = getattr(self.cost.function, "identity", "")
        identity = {
            "weights": fingerprint(net), "images": data.digest(),
            "cost": f"{self.cost.name} ({self.cost.unit}) {which}",
            "score": loss_name(score) if score else str(self.quantity),
            "loss": _name(task) if task is not None else loss_name(loss or F.cross_entropy),
            "channels_last": str(self.evaluator.channels_last),
        }  # fmt: skip
        self.state = State(
            tuple(self.options), identity, state, higher_is_better=self.quantity.higher_is_better
        )  # fmt: skip

    def cost_of(self, config: WidthConfig) -> float:
        """Cost of a config, in the unit of the cost."""
        if config not in self.state.costs:
            self.state.costs[config] = self.cost(self.net, config)
        return self.state.costs[config]

    def evaluate(self, config: WidthConfig, base: WidthConfig | None = None) -> Evaluated:
        """Score and cost of a config; `base` is a config that differs little from it and from later ones."""
        cost = self.cost_of(config)
        if config not in self.state.scores:
            if base is not None:
                self.evaluator.set_base(base)
            self.state.scores[config] = self.evaluator(config)
        score = self.state.scores[config]
        return Evaluated(
            config=config, score=score.value, loss=score.loss, cost=cost,
            higher_is_better=self.quantity.higher_is_better,
        )  # fmt: skip

    def budgets(self, budgets: object) -> tuple[Budget, ...]:
        """Budgets in the unit of the cost, largest first.

        Raises:
            BudgetError: a budget cannot be parsed, or limits another quantity than the cost.
            SearchError: a budget is out of reach, or the cost does not fall with the channels.
        """
        widest, narrowest = self.cost_of(self.widest), self.cost_of(self.narrowest)
        if narrowest >= widest:
            raise SearchError(
                f"cost {self.cost.name!r} is {narrowest:g} {self.cost.unit} for the narrowest network and "
                f"{widest:g} for the widest; a cost must fall with the number of channels"
            )
        return reachable(budgets, self.cost, widest=widest, narrowest=narrowest)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Context manager that saves scores and costs at the end, including after an error."""
        try:
            yield
        finally:
            self.state.save()


def _name(task: Task) -> str:
    """The text of a task, if it has one, or its class and its numbers and names."""
    if type(task).__repr__ is not object.__repr__:
        return repr(task)
    return f"{type(task).__name__}({', '.join(plain_attributes(task))})"
