"""Budgets that a search can meet."""

from __future__ import annotations

from anywidth.core.errors import SearchError
from anywidth.cost import NamedCost
from anywidth.widths import Budget, parse_budgets

__all__ = ["reachable"]


def reachable(values: object, cost: NamedCost, *, widest: float, narrowest: float) -> tuple[Budget, ...]:
    """Budgets in the unit of a cost, largest first; each can be met by some network.

    Args:
        values: Anything that `parse_budgets` accepts.
        cost: The cost that they limit.
        widest: The cost of the widest network.
        narrowest: The cost of the narrowest network.

    Raises:
        BudgetError: a budget cannot be parsed, or limits another quantity than the cost.
        SearchError: a budget is below the narrowest network's cost, or not below the widest network's.

    >>> cost = NamedCost(name="macs", unit="MACs", function=lambda net, config: 1.0)
    >>> [budget.high for budget in reachable("20,50%", cost, widest=100.0, narrowest=10.0)]
    [50.0, 20.0]
    """
    found = []
    for given in parse_budgets(values):
        given.quantity_among({cost.name: cost.unit})
        budget = given.absolute(widest)
        found.append(budget)
        if budget.high < narrowest:
            raise SearchError(
                f"budget {budget} is below the narrowest network's cost of {narrowest:.6g} {cost.unit}; raise it, "
                "or train a supernet with a smaller min_width"
            )
        if budget.high >= widest or budget.low > widest:
            raise SearchError(
                f"budget {budget} is not below the widest network's cost of {widest:.6g} {cost.unit}; lower it, "
                "or search a wider model (--width-mult 1.5)"
            )
    return tuple(sorted(set(found), key=lambda budget: (-budget.high, -budget.low)))
