"""The front of the evaluated networks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from anywidth.search import Evaluated, pareto
from anywidth.widths import WidthConfig


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=30))
def test_the_front(points) -> None:
    networks = [Evaluated(config=WidthConfig({}), score=float(a), loss=0.0, cost=float(c)) for c, a in points]
    front = [(n.cost, n.score) for n in pareto(networks)]
    expected = {
        (c, a) for c, a in points
        if not any((d <= c and b > a) or (d < c and b >= a) for d, b in points)
    }  # fmt: skip
    assert front == sorted(expected)
