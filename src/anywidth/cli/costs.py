"""Costs by name."""

from __future__ import annotations

from typing import Literal

from anywidth.cost import NamedCost, macs, named_cost, params
from anywidth.errors import SearchError
from anywidth.search import SearchResult

__all__ = ["CostName", "cost_by_name", "cost_of_result"]

CostName = Literal["macs", "params"]


def cost_by_name(name: str) -> NamedCost:
    """A cost as the command line calls it.

    >>> cost_by_name("macs").unit
    'MACs'
    """
    return named_cost({"macs": macs, "params": params}[name])


def cost_of_result(result: SearchResult) -> NamedCost:
    """The cost that a search was made with.

    Raises:
        SearchError: it is one of somebody's own.
    """
    try:
        return cost_by_name(result.cost)
    except KeyError:
        raise SearchError(
            f"the search was made with cost {result.cost!r}, which the command line does not know"
        ) from None
