"""Intermediate results of a search in a file, to continue after an interruption."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from anywidth.core.errors import CheckpointError, SearchError
from anywidth.core.files import write_atomically
from anywidth.search.digest import digest_of
from anywidth.search.scores import Evaluated, Score
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig

__all__ = ["State", "fingerprint"]

_FORMAT = 2


def fingerprint(net: Supernet) -> str:
    """Digest of the weights of a network."""
    return digest_of(net.model.named_parameters())


class State:
    """Scores and costs by config. They fully determine a search, so an interrupted search continues by replaying them.

    Args:
        groups: Elastic groups of the network, in order.
        identity: Digests of the weights, images and cost that the results belong to.
        path: The file; None keeps the results in memory only.
        higher_is_better: Whether networks with a higher score are better.

    Raises:
        SearchError: the file belongs to another search.
        CheckpointError: the file is damaged.
    """

    def __init__(
        self,
        groups: tuple[str, ...],
        identity: Mapping[str, str],
        path: Path | None = None,
        *,
        higher_is_better: bool = True,
    ) -> None:
        self.higher_is_better = higher_is_better
        self.groups, self.identity, self.path = groups, dict(identity), path
        self.costs: dict[WidthConfig, float] = {}
        self.scores: dict[WidthConfig, Score] = {}
        self._written = (0, 0)
        if path is not None and path.exists():
            self._read(path)

    @property
    def evaluated(self) -> list[Evaluated]:
        """All networks with a score, in the order of evaluation."""
        return [
            Evaluated(
                config=config,
                score=score.value,
                loss=score.loss,
                cost=self.costs[config],
                higher_is_better=self.higher_is_better,
            )
            for config, score in self.scores.items()
        ]

    def save(self) -> None:
        """Write new results to the file."""
        known = len(self.costs), len(self.scores)
        if self.path is None or known == self._written:
            return
        rows = [[*self._channels(config), cost] for config, cost in self.costs.items()]
        scores = [[*self._channels(config), s.value, s.loss] for config, s in self.scores.items()]
        content = {
            "format": _FORMAT, "identity": self.identity, "groups": list(self.groups), "costs": rows, "scores": scores
        }  # fmt: skip
        text = json.dumps(content) + "\n"
        write_atomically(self.path, lambda temporary: temporary.write_text(text))
        self._written = known

    def _channels(self, config: WidthConfig) -> list[int]:
        return [config[name] for name in self.groups]

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text())
            if content["format"] != _FORMAT:
                raise CheckpointError(f"{path} has format {content['format']}; this version reads {_FORMAT}")
            identity, groups = content["identity"], tuple(content["groups"])
            costs = {self._config(row[:-1]): float(row[-1]) for row in content["costs"]}
            scores = {self._config(row[:-2]): Score(value=row[-2], loss=row[-1]) for row in content["scores"]}
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise CheckpointError(f"cannot read the search in {path}: {error}; remove it to start over") from error
        other = [name for name, value in self.identity.items() if identity.get(name) != value]
        if groups != self.groups or other:
            what = ", ".join(other) if groups == self.groups else "the channel groups"
            raise SearchError(
                f"{path} belongs to another search ({what} differ); remove it to start over, or choose another file"
            )
        self.costs, self.scores = costs, scores
        self._written = len(costs), len(scores)

    def _config(self, channels: list[int]) -> WidthConfig:
        return WidthConfig(dict(zip(self.groups, channels, strict=True)))
