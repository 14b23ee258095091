"""Scores and costs of width configs, each found out once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.nn.functional as F

from anywidth.core.errors import SearchError
from anywidth.cost import Cost, named_cost
from anywidth.evaluation import Score as ScoreFunction
from anywidth.evaluation import top1
from anywidth.search.evaluator import Evaluator
from anywidth.search.plan import space
from anywidth.search.reach import reachable
from anywidth.search.scores import Evaluated
from anywidth.search.settings import SearchSettings
from anywidth.search.split import SearchData
from anywidth.search.state import State, fingerprint
from anywidth.supernet import Supernet
from anywidth.tasks import Logits, Loss, Task, logits_of, loss_name
from anywidth.widths import Budget, WidthConfig

__all__ = ["Scorer"]


class Scorer:
    """One supernet, one set of images and one cost, for one search or several that share what they find out.

    Args:
        net: The supernet.
        data: Calibration and held-out images.
        cost: `cost(net, config)`.
        settings: See `SearchSettings`.
        score: As in `anywidth.evaluate`.
        loss: As in `autoslim`.
        task: As in `autoslim`.
        logits: As in `autoslim`.
        state: The file that keeps what was found out, for another time.
    """

    def __init__(
        self,
        net: Supernet,
        data: SearchData,
        cost: Cost,
        *,
        settings: SearchSettings | None = None,
        score: ScoreFunction = top1,
        loss: Loss | None = None,
        task: Task | None = None,
        logits: Logits = logits_of,
        state: Path | None = None,
    ) -> None:
        self.net = net
        self.cost = named_cost(cost)
        self.settings = settings or SearchSettings()
        self.options = space(net, piece=self.settings.piece)
        self.widest = net.config(1.0)
        self.narrowest = WidthConfig({name: sizes[-1] for name, sizes in self.options.items()})
        self.evaluator = Evaluator(
            net, data, score=score, loss=loss, task=task, logits=logits, memory=self.settings.memory,
            channels_last=self.settings.channels_last,
        )  # fmt: skip
        # A model of latencies says which one it is.
        which = getattr(self.cost.function, "identity", "")
        identity = {
            "weights": fingerprint(net), "images": data.digest(),
            "cost": f"{self.cost.name} ({self.cost.unit}) {which}",
            "score": loss_name(score), "loss": loss_name(task or loss or F.cross_entropy),
            "channels_last": str(self.evaluator.channels_last),
        }  # fmt: skip
        self.state = State(tuple(self.options), identity, state)

    def cost_of(self, config: WidthConfig) -> float:
        """What a config costs, in the unit of the cost."""
        if config not in self.state.costs:
            self.state.costs[config] = self.cost(self.net, config)
        return self.state.costs[config]

    def evaluate(self, config: WidthConfig, base: WidthConfig | None = None) -> Evaluated:
        """Score and cost of a config; `base` is one that differs little from it, and from others that follow."""
        cost = self.cost_of(config)
        if config not in self.state.scores:
            if base is not None:
                self.evaluator.set_base(base)
            self.state.scores[config] = self.evaluator(config)
        score = self.state.scores[config]
        return Evaluated(config=config, accuracy=score.accuracy, loss=score.loss, cost=cost)

    def budgets(self, budgets: object) -> tuple[Budget, ...]:
        """Budgets in the unit of the cost, the largest first.

        Raises:
            BudgetError: one cannot be read, or limits something else than the cost.
            SearchError: one is out of reach, or the cost makes no sense.
        """
        widest, narrowest = self.cost_of(self.widest), self.cost_of(self.narrowest)
        if narrowest >= widest:
            raise SearchError(
                f"cost {self.cost.name!r} is {narrowest:g} {self.cost.unit} for the narrowest network and "
                f"{widest:g} for the widest; a cost has to fall with the channels"
            )
        return reachable(budgets, self.cost, widest=widest, narrowest=narrowest)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Context manager that saves the scores and costs at its end, also after an error."""
        try:
            yield
        finally:
            self.state.save()
