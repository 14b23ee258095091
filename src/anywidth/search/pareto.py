"""Pareto-optimal networks."""

from __future__ import annotations

from collections.abc import Iterable

from anywidth.search.scores import Evaluated

__all__ = ["pareto"]


def pareto(networks: Iterable[Evaluated]) -> list[Evaluated]:
    """Pareto-optimal networks in score and cost, cheapest first.

    >>> from anywidth.widths import WidthConfig
    >>> points = [(1.0, 50.0), (2.0, 40.0), (3.0, 60.0), (3.0, 70.0)]
    >>> found = pareto(Evaluated(config=WidthConfig({}), score=a, loss=0.0, cost=c) for c, a in points)
    >>> [(network.cost, network.score) for network in found]
    [(1.0, 50.0), (3.0, 70.0)]
    """
    front: list[Evaluated] = []
    for network in sorted(networks, key=lambda item: (item.cost, -item.rank, item.loss)):
        if not front or network.rank > front[-1].rank:
            front.append(network)
    return front
