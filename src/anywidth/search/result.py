"""Results of a search, with methods to save and plot them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, overload

from anywidth.core.errors import CheckpointError, SearchError
from anywidth.core.files import write_atomically
from anywidth.search.found import Found, Step
from anywidth.search.pareto import pareto
from anywidth.search.picture import draw
from anywidth.search.scores import Evaluated
from anywidth.tasks import ACCURACY, Quantity
from anywidth.tasks.quantity import shortened
from anywidth.widths import Budget, WidthConfig, parse_budget

__all__ = ["SearchResult"]

_FORMAT = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult(Sequence[WidthConfig]):
    """Width configs that a search found, one per budget, largest budget first.

    Attributes:
        cost: Name of the cost.
        unit: Unit of the cost.
        full: Channels of every elastic group in the widest network, in order.
        steps: The steps of greedy slimming; empty for other methods.
        found: The network for every budget.
        evaluated: All evaluated networks.
        quantity: What the score is.
        about: Further information as JSON values.
    """

    cost: str
    unit: str
    full: Mapping[str, int]
    steps: Sequence[Step]
    found: Sequence[Found]
    evaluated: Sequence[Evaluated]
    quantity: Quantity = ACCURACY
    about: Mapping[str, Any] = field(default_factory=dict)

    @overload
    def __getitem__(self, index: int) -> WidthConfig: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[WidthConfig]: ...
    def __getitem__(self, index: int | slice) -> WidthConfig | Sequence[WidthConfig]:
        return [item.network.config for item in self.found][index]

    def __len__(self) -> int:
        return len(self.found)

    def __iter__(self) -> Iterator[WidthConfig]:
        return (item.network.config for item in self.found)

    @property
    def pareto(self) -> list[Evaluated]:
        """Evaluated networks that are Pareto-optimal in score and cost, cheapest first."""
        return pareto(self.evaluated)

    def network(self, budget: object) -> Evaluated:
        """Network for one of the budgets, written as for the search or in the unit of the cost.

        Raises:
            BudgetError: the budget cannot be parsed.
            SearchError: the search had no such budget.
        """
        asked = parse_budget(budget)
        for item in self.found:
            widest = self.steps[0].network.cost if self.steps else 0.0
            wanted = asked.absolute(widest) if widest else asked
            if str(asked) == str(item.budget) or (wanted.high, wanted.low) == (item.budget.high, item.budget.low):
                return item.network
        known = ", ".join(str(item.budget) for item in self.found) or "none"
        raise SearchError(f"the search has no network for budget {asked}; it has {known}")

    def csv(self) -> str:
        """Steps as CSV: step, group, channels, the score by its name, loss, cost, candidates, seconds."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["step", "group", "channels", self.quantity.name, "loss", self.cost, "candidates", "seconds"])
        for s in self.steps:
            channels = "" if s.channels is None else s.channels
            score, loss = shortened(s.network.score), round(s.network.loss, 6)
            writer.writerow(
                [s.number, s.group or "", channels, score, loss, f"{s.network.cost:.12g}", s.candidates, s.seconds]
            )
        return text.getvalue()

    def to_csv(self, path: str | Path) -> Path:
        """Write the steps as CSV."""
        return write_atomically(Path(path), lambda temporary: temporary.write_text(self.csv()))

    def to_json(self, path: str | Path) -> Path:
        """Write all results to a file for `from_json`."""
        content = {
            "format": _FORMAT,
            "cost": self.cost,
            "unit": self.unit,
            "quantity": asdict(self.quantity),
            "full": dict(self.full),
            "found": [
                {"budget": _limits(item.budget), **self._plain(item.network, named=True)} for item in self.found
            ],
            "steps": [
                {"number": s.number, "group": s.group, "channels": s.channels, "candidates": s.candidates,
                 "seconds": s.seconds, "network": self._plain(s.network)}
                for s in self.steps
            ],
            "evaluated": [self._plain(network) for network in self.evaluated],
            "about": dict(self.about),
        }  # fmt: skip
        text = json.dumps(content) + "\n"
        return write_atomically(Path(path), lambda temporary: temporary.write_text(text))

    @classmethod
    def from_json(cls, path: str | Path) -> SearchResult:
        """Read a file that `to_json` wrote.

        Raises:
            CheckpointError: the file is missing, damaged, or of another version.
        """
        try:
            content = json.loads(Path(path).read_text())
            if content["format"] != _FORMAT:
                raise CheckpointError(f"{path} has format {content['format']}; this version reads {_FORMAT}")
            full, quantity = content["full"], Quantity(**content["quantity"])
            return cls(
                cost=content["cost"],
                unit=content["unit"],
                quantity=quantity,
                full=full,
                steps=[
                    Step(**{**row, "network": _network(row["network"], full, quantity)}) for row in content["steps"]
                ],
                found=[
                    Found(budget=Budget(**row["budget"]), network=_network(row, full, quantity))
                    for row in content["found"]
                ],
                evaluated=[_network(row, full, quantity) for row in content["evaluated"]],
                about=content["about"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"cannot read a search from {path}: {error}; give a file that a search wrote"
            ) from error

    def plot(self, path: str | Path, *, title: str = "") -> Path:
        """Plot the score against cost, step by step, and the channels of every group in the found networks.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        label = self.unit if self.cost == self.unit.lower() else f"{self.cost} ({self.unit})"
        return draw(
            Path(path), full=self.full, evaluated=self.evaluated, steps=self.steps, found=self.found, cost=label,
            quantity=self.quantity, title=title,
        )  # fmt: skip

    def _plain(self, network: Evaluated, *, named: bool = False) -> dict[str, Any]:
        channels = {name: network.config[name] for name in self.full}
        return {
            "score": network.score, "loss": network.loss, "cost": network.cost,
            "config": channels if named else list(channels.values()),
        }  # fmt: skip


def _limits(budget: Budget) -> dict[str, Any]:
    """Budget in the unit of the cost, as JSON values."""
    return {"high": budget.high, "low": budget.low, "share": budget.share, "text": budget.text}


def _network(row: Mapping[str, Any], full: Mapping[str, int], quantity: Quantity) -> Evaluated:
    channels = row["config"]
    named = channels if isinstance(channels, Mapping) else dict(zip(full, channels, strict=True))
    return Evaluated(
        config=WidthConfig(named), score=row["score"], loss=row["loss"], cost=row["cost"],
        higher_is_better=quantity.higher_is_better,
    )  # fmt: skip
