"""Greedy slimming: what it decides, what it writes down, and how it goes on after an interruption."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from torch import nn

import anywidth as aw
from anywidth.core.errors import CheckpointError, SearchError
from anywidth.cost import NamedCost, fit_latency
from anywidth.search import Evaluator, Scorer, SearchData, SearchResult, SearchSettings, search
from anywidth.search.methods.greedy import descend
from anywidth.search.plan import narrower, space

SMALL = SearchSettings(step_fraction=0.25)


def test_the_removal_that_costs_least_accuracy_stays(toy, loader, held_out) -> None:
    """The same descent as one that is written down here with the public functions alone."""
    found = aw.autoslim(toy, loader, "40%", held_out=held_out(), settings=SMALL)
    inputs = torch.cat([x for x, _ in loader])
    options, config, path = space(toy, step_fraction=0.25), toy.config(1.0), []
    while aw.macs(toy, config) > 0.4 * aw.macs(toy):
        scored = []
        for number, (name, candidate) in enumerate(narrower(config, options).items()):
            aw.calibrate(toy, [inputs], [candidate])
            with torch.no_grad():
                ((x, y),) = held_out()
                logits = toy.extract(candidate).eval()(x)
            accuracy, loss = aw.evaluate(toy, held_out(), candidate), float(nn.functional.cross_entropy(logits, y))
            scored.append((-accuracy, loss, number, name, candidate))
        _, _, _, name, config = min(scored)
        path.append((name, config[name]))
    assert [(step.group, step.channels) for step in found.steps[1:]] == path
    assert list(found) == [config]
    assert len(path) > 4


@pytest.mark.parametrize("objective", ["score", "per-cost"])
def test_the_fast_search_decides_as_the_naive_one(toy, loader, held_out, objective) -> None:
    fast, naive = (
        aw.autoslim(
            toy, loader, "30%", held_out=held_out(), settings=SearchSettings(objective=objective, memory=memory)
        )
        for memory in (2e9, 0)
    )
    assert [s.network for s in fast.steps] == [s.network for s in naive.steps]
    assert fast.evaluated == naive.evaluated


def test_all_budgets_in_one_descent(toy, loader, held_out) -> None:
    full = aw.macs(toy)
    found = aw.autoslim(toy, loader, ["30%", 0.8 * full, "45%-60%"], held_out=held_out(), settings=SMALL)
    costs = [aw.macs(toy, config) for config in found]
    assert costs == [item.network.cost for item in found.found] == sorted(costs, reverse=True)
    assert [str(item.budget) for item in found.found] == [f"{0.8 * full:g}", "45%-60%", "30%"]
    assert all(item.budget.admits(item.network.cost) for item in found.found)
    assert found.network("30%").config == found[2] == found.network(0.3 * full).config
    walked = [step.network.config for step in found.steps]
    assert all(config in walked for config in found)
    assert found.steps[-1].network.config == found[-1]
    # Each is the first on the way that meets its budget.
    first = next(step for step in found.steps if step.network.cost <= 0.8 * full)
    assert found[0] == first.network.config
    with pytest.raises(SearchError, match="no network for budget 70%; it has"):
        found.network("70%")


def test_an_interval_is_not_jumped_over(toy, loader, held_out) -> None:
    full = aw.macs(toy)
    found = aw.autoslim(toy, loader, f"{0.86 * full}-{0.93 * full}", held_out=held_out(), settings=SMALL)
    assert 0.86 * full <= aw.macs(toy, found[0]) <= 0.93 * full
    with pytest.raises(SearchError, match=r"no removal from the network of .* meets budget .*: they lead to"):
        aw.autoslim(toy, loader, f"{0.990 * full}-{0.995 * full}", held_out=held_out(), settings=SMALL)


def test_the_log_and_the_file(toy, loader, held_out, tmp_path) -> None:
    found = aw.autoslim(toy, loader, "50%,30%", held_out=held_out(), settings=SMALL)
    rows = list(csv.DictReader(io.StringIO(found.csv())))
    assert list(rows[0]) == ["step", "group", "channels", "accuracy", "loss", "macs", "candidates", "seconds"]
    assert (rows[0]["step"], rows[0]["group"], float(rows[0]["macs"])) == ("0", "", aw.macs(toy))
    macs = [float(row["macs"]) for row in rows]
    assert macs == sorted(macs, reverse=True)
    channels = dict(toy.config(1.0))
    for row, step in zip(rows[1:], found.steps[1:], strict=True):
        channels[row["group"]] = int(row["channels"])
        assert dict(step.network.config) == channels
    again = SearchResult.from_json(found.to_json(tmp_path / "search.json"))
    assert (list(again), again.steps, again.found, again.evaluated) == (
        list(found),
        found.steps,
        found.found,
        found.evaluated,
    )
    assert again.csv() == found.to_csv(tmp_path / "search.csv").read_text()
    assert found.plot(tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    named = json.loads((tmp_path / "search.json").read_text())["found"][0]["config"]
    assert named == dict(found[0])
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot read a search from"):
        SearchResult.from_json(tmp_path / "search.json")


def test_the_front_holds_what_nothing_beats(toy, loader, held_out) -> None:
    found = aw.autoslim(toy, loader, "30%", held_out=held_out(), settings=SMALL)
    front = found.pareto
    for one in found.evaluated:
        beaten = any(f.cost <= one.cost and f.score >= one.score for f in front)
        assert beaten
    for one in front:
        assert not any(o.cost <= one.cost and o.score > one.score for o in found.evaluated)


def test_an_interrupted_search_goes_on(toy, loader, held_out, tmp_path, monkeypatch) -> None:
    state = tmp_path / "state.json"
    whole = aw.autoslim(toy, loader, "30%", held_out=held_out(), settings=SMALL)
    calls = []
    evaluate = Evaluator.__call__

    def stop(self, config):
        calls.append(config)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return evaluate(self, config)

    monkeypatch.setattr(Evaluator, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        aw.autoslim(toy, loader, "30%", held_out=held_out(), settings=SMALL, state=state)
    assert len(json.loads(state.read_text())["scores"]) == 8
    again = aw.autoslim(toy, loader, "30%", held_out=held_out(), settings=SMALL, state=state)
    assert [s.network for s in again.steps] == [s.network for s in whole.steps]
    assert len(calls) == 1 + len(whole.evaluated)
    # A smaller budget goes on from there, too.
    aw.autoslim(toy, loader, "30%", held_out=held_out(), settings=SMALL, state=state)
    assert len(calls) == 1 + len(whole.evaluated)


def test_a_state_of_something_else_is_told(toy, loader, held_out, tmp_path) -> None:
    state = tmp_path / "state.json"
    aw.autoslim(toy, loader, "80%", held_out=held_out(), settings=SMALL, state=state)
    before = state.read_bytes()
    with pytest.raises(SearchError, match=r"belongs to another search \(cost differ\)"):
        aw.autoslim(toy, loader, "80%", aw.params, held_out=held_out(), settings=SMALL, state=state)
    with torch.no_grad():
        toy.model[0].weight.add_(1.0)
    with pytest.raises(SearchError, match=r"\(weights differ\)"):
        aw.autoslim(toy, loader, "80%", held_out=held_out(), settings=SMALL, state=state)
    assert state.read_bytes() == before
    state.write_text("{")
    with pytest.raises(CheckpointError, match="remove it to start over"):
        aw.autoslim(toy, loader, "80%", held_out=held_out(), settings=SMALL, state=state)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (
            lambda net, config: float("nan"),
            "cost '<lambda>' of config .* is nan; a cost must be a finite number above 0",
        ),
        (lambda net, config: "cheap", "is 'cheap'"),
        (lambda net, config: None, "is None"),
        (lambda net, config: -1.0, "is -1"),
        (lambda net, config: 7.0, "is 7 .* for the narrowest network and 7 for the widest"),
    ],
)
def test_a_cost_that_is_nonsense_is_told(toy, loader, cost, message) -> None:
    with pytest.raises(SearchError, match=message):
        aw.autoslim(toy, loader, "50%", cost)


def test_two_latency_models_are_two_costs(toy, loader, held_out, tmp_path) -> None:
    models = [fit_latency(toy, lambda net, config, k=k: k + config["0"], configs=8, held_out=4) for k in (1.0, 2.0)]
    asked = {"held_out": held_out(), "settings": SMALL, "state": tmp_path / "state.json"}
    found = aw.autoslim(toy, loader, "80%", models[0], **asked)
    assert (found.cost, found.unit) == ("latency", "ms")
    with pytest.raises(SearchError, match=r"\(cost differ\)"):
        aw.autoslim(toy, loader, "80%", models[1], **asked)


def test_a_cost_that_fails_on_the_way_keeps_the_state(toy, loader, held_out, tmp_path) -> None:
    calls = []

    def cost(net, config):
        calls.append(config)
        return aw.macs(net, config) if len(calls) < 7 else float("inf")

    with pytest.raises(SearchError, match="is inf"):
        aw.autoslim(toy, loader, "30%", cost, held_out=held_out(), settings=SMALL, state=tmp_path / "state.json")
    assert len(json.loads((tmp_path / "state.json").read_text())["costs"]) == 6


def test_costs_of_ones_own_have_names(toy, loader, held_out) -> None:
    energy = NamedCost(name="energy", unit="nJ", function=lambda net, config: torch.tensor(2.0) * aw.macs(net, config))
    found = aw.autoslim(toy, loader, "50%", energy, held_out=held_out(), settings=SMALL)
    assert (found.cost, found.unit) == ("energy", "nJ")
    assert found.network("50%").cost == 2 * aw.macs(toy, found[0])


def test_what_cannot_be_searched_is_told(toy, loader, held_out) -> None:
    for budget, message in (("1%", "below the narrowest network"), ("200%", "not below the widest")):
        with pytest.raises(SearchError, match=message):
            aw.autoslim(toy, loader, budget)
    with pytest.raises(SearchError, match="no images are held out"):
        aw.autoslim(toy, loader, "50%", held_out=[])
    with pytest.raises(SearchError, match="no images are held out"):
        aw.autoslim(toy, [(x[:2], y[:2]) for x, y in loader[:1]], "50%")
    with pytest.raises(SearchError, match="the loader is empty"):
        aw.autoslim(toy, [], "50%")
    with pytest.raises(SearchError, match="returns no targets"):
        aw.autoslim(toy, [x for x, _ in loader], "50%")
    with pytest.raises(SearchError, match="have no targets"):
        aw.autoslim(toy, loader, "50%", held_out=[x for x, _ in held_out()])
    for wrong in ({"step_fraction": 0}, {"objective": "best"}, {"memory": -1}):
        with pytest.raises(SearchError, match=next(iter(wrong))):
            SearchSettings(**wrong)
    with torch.no_grad():
        toy.model[3].weight.fill_(float("nan"))
    with pytest.raises(SearchError, match="held-out images"):
        aw.autoslim(toy, loader, "50%")


def test_the_split_shares_no_image(loader) -> None:
    data = SearchData.split(loader, images=50, held_out=40, batch_size=16, seed=3)
    parts = [data.calibration[0].args[0], *(inputs.args[0] for inputs, _ in data.held_out)]
    assert [len(part) for part in parts] == [50, 16, 16, 8]
    together = torch.cat(parts).flatten(1)
    assert len(torch.unique(together, dim=0)) == 90
    by_image = {
        tuple(x.flatten().tolist()): int(y) for images, labels in loader for x, y in zip(images, labels, strict=True)
    }
    for inputs, targets in data.held_out:
        assert [by_image[tuple(x.flatten().tolist())] for x in inputs.args[0]] == targets.tolist()
    assert data.digest() == SearchData.split(loader, images=50, held_out=40, batch_size=16, seed=3).digest()
    assert data.digest() != SearchData.split(loader, images=50, held_out=40, batch_size=16, seed=4).digest()


def test_progress_ends_at_the_last_budget(toy, loader, held_out) -> None:
    seen = []
    aw.autoslim(toy, loader, "50%", held_out=held_out(), settings=SMALL, progress=seen.append)
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_two_searches_share_what_is_known(toy, loader, held_out) -> None:
    scorer = Scorer(toy, SearchData.of(loader, held_out()), aw.macs, settings=SMALL)
    search(scorer, "60%")
    known = len(scorer.state.scores)
    steps, _ = descend(scorer, scorer.budgets("60%"), steps=2)
    assert len(steps) == 3
    assert len(scorer.state.scores) == known
