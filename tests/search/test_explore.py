"""Evolutionary and random search, and the front of what was evaluated."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import anywidth as aw
from anywidth.core.errors import MissingExtraError, SearchError
from anywidth.search import Evaluated, Judge, Score, SearchData, SearchSettings, explore, pareto, slim
from anywidth.widths import WidthConfig


@pytest.fixture
def judge(toy, loader, held_out) -> Judge:
    return Judge(toy, SearchData.of(loader, held_out()), aw.macs, settings=SearchSettings(piece=0.1))


@pytest.mark.parametrize("method", ["evolution", "random"])
def test_it_finds_networks_within_budgets(judge, toy, method) -> None:
    full, seen = aw.macs(toy), []
    found = explore(judge, "60%,30%-40%", method=method, evaluations=40, progress=lambda *p: seen.append(p))
    assert seen == [(n, 40) for n in range(1, 41)]
    assert len(found.evaluated) == 40
    assert len({network.config for network in found.evaluated}) == 40
    for item in found.found:
        inside = [n for n in found.evaluated if item.budget.admits(n.cost)]
        assert item.network.accuracy == max(n.accuracy for n in inside)
        assert item.network.cost == aw.macs(toy, item.network.config)
    assert all(n.cost <= 0.6 * full for n in found.evaluated)
    assert all(n.config[name] in sizes for n in found.evaluated for name, sizes in judge.options.items())
    again = explore(judge, "60%,30%-40%", method=method, evaluations=40)
    assert again.evaluated == found.evaluated
    other = explore(judge, "60%,30%-40%", method=method, evaluations=40, seed=1)
    assert other.evaluated != found.evaluated


def test_evolution_gets_better_where_chance_does_not(judge, monkeypatch) -> None:
    """On a score that only one group decides, which is at odds with the cost."""
    monkeypatch.setattr(
        type(judge.evaluator), "__call__",
        lambda self, config: Score(accuracy=float(config["0"]) - 0.2 * config["3"] - 0.2 * config["6"], loss=0.0),
    )  # fmt: skip
    late = {}
    for method in ("evolution", "random"):
        judge.state.scores.clear()
        networks = explore(judge, "70%", method=method, evaluations=80).evaluated
        late[method] = sum(n.accuracy for n in networks[48:]) / 32
    assert late["evolution"] > late["random"] + 0.5


def test_it_shares_what_greedy_slimming_found_out(judge) -> None:
    greedy = slim(judge, "50%")
    known = dict(judge.state.scores)
    found = explore(judge, "50%", method="random", evaluations=10)
    assert len(found.evaluated) == 10
    assert all(judge.state.scores[config] == score for config, score in known.items())
    front = pareto([*greedy.evaluated, *found.evaluated])
    assert front[-1].accuracy == max(n.accuracy for n in (*greedy.evaluated, *found.evaluated))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=30))
def test_the_front(points) -> None:
    networks = [Evaluated(config=WidthConfig({}), accuracy=float(a), loss=0.0, cost=float(c)) for c, a in points]
    front = [(n.cost, n.accuracy) for n in pareto(networks)]
    expected = {
        (c, a) for c, a in points
        if not any((d <= c and b > a) or (d < c and b >= a) for d, b in points)
    }  # fmt: skip
    assert front == sorted(expected)


def test_what_does_not_fit_is_told(judge, monkeypatch) -> None:
    with pytest.raises(SearchError, match="choose evolution or random"):
        explore(judge, "50%", method="best")
    with pytest.raises(SearchError, match="at least 1"):
        explore(judge, "50%", evaluations=0)
    with pytest.raises(SearchError, match="below the narrowest"):
        explore(judge, "1%")
    with pytest.raises(SearchError, match="met no network within budget 95%-95.001%"):
        explore(judge, "50%,95%-95.001%", evaluations=3, method="random")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"anywidth\[search\]"):
        explore(judge, "50%")
