"""Numbers over seeds, and what they say of a claim."""

from __future__ import annotations

import json
import math
import statistics

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp

from anywidth.core.errors import AnywidthError
from anywidth.reproduce import Claim, Difference, Point, Results, higher

numbers = st.floats(-100, 100)
columns = st.lists(st.tuples(numbers, numbers), min_size=2, max_size=5)


def two_arms(rows: list[tuple[float, float]]) -> Results:
    """Arms a and b at two widths; the value at 1.0 is that at 0.5 plus 1."""
    arms = {
        arm: {
            seed: [Point(x=0.5, y=row[i], macs=10), Point(x=1.0, y=row[i] + 1, macs=20)]
            for seed, row in enumerate(rows)
        }
        for i, arm in enumerate("ab")
    }
    return Results(arms)


@given(columns)
def test_statistics_are_those_of_the_standard_library(rows) -> None:
    results = two_arms(rows)
    first = [a for a, _ in rows]
    assert results.seeds == list(range(len(rows)))
    assert results.mean("a", 0.5) == pytest.approx(statistics.fmean(first))
    assert results.mean("a") == pytest.approx(statistics.fmean(first) + 0.5)
    assert results.spread("a", 1.0) == pytest.approx(statistics.stdev(first), abs=1e-9)
    found, pairs = results.difference("a", "b", [0.5, 1.0]), [a - b for a, b in rows]
    assert found.mean == pytest.approx(statistics.fmean(pairs), abs=1e-9)
    assert found.error == pytest.approx(statistics.stdev(pairs) / math.sqrt(len(pairs)), abs=1e-9)
    assert results.values("a", "narrowest") == results.values("a", 0.5)
    assert results.values("a", "widest") == results.values("a", 1.0)


def test_costs_that_differ_by_seed_are_averaged() -> None:
    seeds = {seed: [Point(x=0.5, y=1.0, macs=cost)] for seed, cost in enumerate((10, 40, 100))}
    results = Results({"a": seeds})
    assert results.macs("a") == [50]
    assert Results.from_json(results.as_json(), results.seeds).macs("a") == [50]


@given(columns)
def test_json_keeps_everything(rows) -> None:
    results = two_arms(rows)
    again = Results.from_json(json.loads(json.dumps(results.as_json())), results.seeds)
    assert again.arms == results.arms


@given(columns)
def test_a_claim_and_its_opposite_are_never_both_decided_alike(rows) -> None:
    results = two_arms(rows)
    there, back = (Claim(text="", difference=higher(*arms)).judge(results).says for arms in ("ab", "ba"))
    assert {there, back} in ({"holds", "contradicted"}, {"undecided"})


@pytest.mark.parametrize(
    ("pairs", "above", "says"),
    [
        ([(5, 1), (6, 2)], 0, "holds"),
        ([(1, 5), (2, 6)], 0, "contradicted"),
        ([(5, 1), (1, 5)], 0, "undecided"),
        ([(5, 1), (6, 2)], 5, "contradicted"),
        ([(1, 2), (1, 2)], -1.5, "holds"),
        ([(5, 1)], 0, "undecided"),
    ],
)
def test_the_confidence_interval_decides(pairs, above, says) -> None:
    claim, results = Claim(text="", difference=higher("a", "b", 0.5), above=above), two_arms(pairs)
    verdict = claim.judge(results)
    assert verdict.says == says
    assert verdict.difference.mean == results.difference("a", "b", 0.5).mean  # as measured, whatever was claimed


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=8))
def test_the_margin_is_that_of_a_t_test(values) -> None:
    assume(statistics.stdev(values) > 1e-3)
    found = Difference.of(values)
    # Zero is on the edge of the interval where the p-value is 5%.
    assert ttest_1samp(values, found.mean - found.margin).pvalue == pytest.approx(0.05, rel=1e-4)


def test_a_single_seed_has_no_error() -> None:
    assert math.isnan(Difference.of([1.0]).error)
    assert math.isnan(Difference.of([1.0]).margin)
    assert two_arms([(1, 2)]).spread("a") == 0


def test_wrong_names_and_uneven_seeds_are_told() -> None:
    results = two_arms([(1, 2), (3, 4)])
    with pytest.raises(AnywidthError, match="no arm 'c'; there are a, b"):
        results.mean("c")
    with pytest.raises(AnywidthError, match=r"not measured at 0.75, only at 0.5, 1.0"):
        results.mean("a", 0.75)
    with pytest.raises(AnywidthError, match="measured at different points"):
        Results({"a": {0: [Point(x=1, y=0)], 1: [Point(x=2, y=0)]}})
