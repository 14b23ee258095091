"""Evolutionary and random search."""

from __future__ import annotations

import sys

import pytest

import anywidth as aw
from anywidth.core.errors import MissingExtraError, SearchError
from anywidth.search import Score, Scorer, SearchData, SearchSettings, pareto, search


@pytest.fixture
def scorer(toy, loader, held_out) -> Scorer:
    return Scorer(toy, SearchData.of(loader, held_out()), aw.macs, settings=SearchSettings(step_fraction=0.1))


@pytest.mark.parametrize("method", ["evolution", "random"])
def test_it_finds_networks_within_budgets(scorer, toy, method) -> None:
    full, seen = aw.macs(toy), []
    found = search(scorer, "60%,30%-40%", method=method, evaluations=40, progress=seen.append)
    assert [(p.candidate, p.candidates, p.share) for p in seen] == [(n, 40, n / 40) for n in range(1, 41)]
    assert len(found.evaluated) == 40
    assert len({network.config for network in found.evaluated}) == 40
    for item in found.found:
        inside = [n for n in found.evaluated if item.budget.admits(n.cost)]
        assert item.network.score == max(n.score for n in inside)
        assert item.network.cost == aw.macs(toy, item.network.config)
    assert all(n.cost <= 0.6 * full for n in found.evaluated)
    assert all(n.config[name] in sizes for n in found.evaluated for name, sizes in scorer.options.items())
    again = search(scorer, "60%,30%-40%", method=method, evaluations=40)
    assert again.evaluated == found.evaluated
    other = search(scorer, "60%,30%-40%", method=method, evaluations=40, seed=1)
    assert other.evaluated != found.evaluated


def test_evolution_gets_better_where_chance_does_not(scorer, monkeypatch) -> None:
    """On a score that only one group decides, which is at odds with the cost."""
    monkeypatch.setattr(
        type(scorer.evaluator), "__call__",
        lambda self, config: Score(value=float(config["0"]) - 0.2 * config["3"] - 0.2 * config["6"], loss=0.0),
    )  # fmt: skip
    late = {}
    for method in ("evolution", "random"):
        scorer.state.scores.clear()
        networks = search(scorer, "70%", method=method, evaluations=80).evaluated
        late[method] = sum(n.score for n in networks[48:]) / 32
    assert late["evolution"] > late["random"] + 0.5


def test_it_shares_what_greedy_slimming_found_out(scorer) -> None:
    greedy = search(scorer, "50%")
    known = dict(scorer.state.scores)
    found = search(scorer, "50%", method="random", evaluations=10)
    assert len(found.evaluated) == 10
    assert all(scorer.state.scores[config] == score for config, score in known.items())
    front = pareto([*greedy.evaluated, *found.evaluated])
    assert front[-1].score == max(n.score for n in (*greedy.evaluated, *found.evaluated))


def test_what_does_not_fit_is_told(scorer, monkeypatch) -> None:
    with pytest.raises(SearchError, match="method 'best' is unknown; choose one of evolution, greedy, random"):
        search(scorer, "50%", method="best")
    with pytest.raises(SearchError, match="at least 1"):
        search(scorer, "50%", "random", evaluations=0)
    with pytest.raises(SearchError, match="below the narrowest"):
        search(scorer, "1%", "evolution")
    with pytest.raises(SearchError, match="found no network within budget 95%-95.001%"):
        search(scorer, "50%,95%-95.001%", evaluations=3, method="random")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"anywidth\[search\]"):
        search(scorer, "50%", "evolution")
