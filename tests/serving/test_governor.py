"""The governor on a simulated clock."""

from __future__ import annotations

import dataclasses
import itertools
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anywidth.core.errors import WidthError
from anywidth.serving import Governor, GovernorSettings, ServiceTimes, Waiting
from fast import fast_and_slow
from simulation import poisson, simulate

WIDTHS = (0.25, 0.5, 0.75, 1.0)
FULL = 0.010
"""Seconds of the full width for one row."""
TARGET = 0.060


def table(widths: tuple[float, ...] = WIDTHS) -> ServiceTimes:
    """A fixed part, and one that goes with the square of the width; batches save a little."""
    return ServiceTimes({w: {n: FULL * (0.1 + 0.9 * w * w) * (0.2 + 0.8 * n) for n in (1, 2, 4, 8)} for w in widths})


def governor(widths: tuple[float, ...] = WIDTHS, **settings: float) -> Governor:
    return Governor(table(widths), GovernorSettings(**{"target": TARGET, **settings}))


def exact(width: float, rows: int, now: float) -> float:
    return table().seconds(width, rows)


CAPACITY = governor().capacity(1.0)
"""Rows per second that the full width holds."""


def waiting(count: int, age: float = 0.0) -> list[Waiting]:
    return [Waiting(arrived=-age)] * count


def busy(one: Governor) -> float:
    """Let much arrive, and return when the last did."""
    arrivals = poisson(2.5 * CAPACITY, 3)
    for arrived in arrivals:
        one.arrived(arrived)
    return arrivals[-1]


def test_alone_a_request_gets_the_full_width():
    decision = governor().decide(0.0, waiting(1))
    assert (decision.width, decision.members, decision.reason) == (1.0, (0,), "load")
    assert decision.expected == pytest.approx(FULL)


def test_a_long_queue_and_an_old_request_narrow():
    by_length = [governor().decide(0.0, waiting(count)).width for count in (1, 4, 8, 16, 40)]
    assert by_length == sorted(by_length, reverse=True)
    assert by_length[0] == 1.0
    assert by_length[-1] == 0.25
    by_age = [governor().decide(0.0, waiting(1, age)).width for age in (0.0, 0.036, 0.040, 0.043)]
    assert by_age == [1.0, 0.75, 0.5, 0.25]
    late = governor().decide(0.0, waiting(1, age=1.0))
    assert (late.width, late.reason) == (0.25, "late")


def test_at_twice_the_capacity_of_the_full_width_all_are_in_time_where_a_fixed_server_fails():
    arrivals = poisson(2 * CAPACITY, 20)
    slim, fixed = simulate(governor(), arrivals, exact), simulate(governor((1.0,)), arrivals, exact)
    assert slim.answered_within(TARGET) >= 0.99
    assert fixed.answered_within(TARGET) < 0.1
    # The width in use is about the widest that the load allows: 2 x capacity means about half the time per row.
    assert 0.5 <= slim.mean_width <= 0.75


@pytest.mark.parametrize("load", fast_and_slow((0.2, 0.5, 0.8, 1.2, 1.6, 2.5, 3.0), {0.5, 1.2, 3.0}))
def test_the_target_is_held_from_idle_to_three_times_the_capacity(load):
    outcome = simulate(governor(), poisson(load * CAPACITY, 15, seed=1), exact)
    assert outcome.answered_within(TARGET) >= 0.99
    if load <= 0.5:
        assert outcome.mean_width > 0.99


@pytest.mark.parametrize(
    ("calm", "jump", "noise"),
    fast_and_slow(itertools.product((0.05, 0.2, 0.8), (2.0, 3.0), (0.0, 0.15)), {(0.05, 3.0, 0.15), (0.8, 2.0, 0.0)}),
)
def test_a_jump_of_the_load_is_met_in_time(calm, jump, noise):
    """Four times from calm to a jump and back, five seconds each; batches take as much longer or shorter as said."""
    rates = [load * CAPACITY for load in (calm, jump) * 4]
    arrivals = [5 * n + t for n, rate in enumerate(rates) for t in poisson(rate, 5, seed=n) if t < 5]
    random = np.random.default_rng(0)

    def took(width: float, rows: int, now: float) -> float:
        return exact(width, rows, now) * float(np.exp(noise * random.normal()))

    outcome = simulate(governor(), arrivals, took)
    assert outcome.answered_within(TARGET) >= 0.999
    # By the queue at once, by the rate of arrivals soon, and wide again in the calm.
    after = [d for d in outcome.decisions if 5 <= d.time < 5.1]
    assert min(d.width for d in after) < 1.0
    if calm < 0.5:
        assert max(d.width for d in outcome.decisions if 14 <= d.time < 15) == 1.0


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_a_target_of_load_or_energy_bounds_the_time_that_the_network_runs(share):
    """At 0.6 of the capacity the full width would run for 60 % of the time."""
    arrivals = poisson(0.6 * CAPACITY, 30)

    def busy_share(one: Governor) -> float:
        return sum(d.expected / d.drift for d in simulate(one, arrivals, exact).decisions) / arrivals[-1]

    assert busy_share(governor((1.0,))) > 0.55
    assert 0.5 * share < busy_share(governor(load=share)) <= 1.1 * share


def test_more_load_never_widens():
    widths = [
        simulate(governor(), poisson(load * CAPACITY, 10), exact).mean_width for load in (0.3, 1.0, 1.7, 2.4, 3.0)
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] - widths[-1] > 0.4


def test_drift_is_followed_and_forgotten():
    def slow_in_the_middle(width: float, rows: int, now: float) -> float:
        return exact(width, rows, now) * (1.8 if 5 <= now < 12 else 1.0)

    one = governor()
    outcome = simulate(one, poisson(0.8 * CAPACITY, 20), slow_in_the_middle)
    assert outcome.answered_within(TARGET) >= 0.985
    middle = [d for d in outcome.decisions if 7 <= d.time < 12]
    assert np.mean([d.drift for d in middle]) == pytest.approx(1.8, rel=0.1)
    assert np.mean([d.width for d in middle]) < 0.8
    end = [d for d in outcome.decisions if d.time > 15]
    assert end[-1].drift == pytest.approx(1.0, rel=0.05)
    assert np.mean([d.width for d in end]) > np.mean([d.width for d in middle]) + 0.1


def test_one_accident_does_not_throw_it_off():
    one = governor()
    decision = one.decide(0.0, waiting(1))
    one.finished(decision, 100 * decision.expected)
    assert one.drift.ratio < 1.2


def test_the_width_by_load_does_not_flap_at_a_load_on_the_border():
    """The load needs 0.75 and 1.0 by turns, as chance has it: without hysteresis the width changes all the time."""
    load = 0.85 * CAPACITY
    calm = simulate(governor(), poisson(load, 30), exact).steady
    nervous = simulate(governor(hysteresis=0.0, hold=0.0), poisson(load, 30), exact).steady

    def changes(widths: list[float]) -> int:
        return sum(a != b for a, b in itertools.pairwise(widths))

    assert changes(calm) <= 15
    assert changes(nervous) > 3 * changes(calm)


def test_a_wider_width_comes_after_the_hold_and_not_before():
    one = governor(hold=2.0)
    start = busy(one)
    assert one.decide(start, [Waiting(arrived=start)]).width < 1.0
    narrow, seen = one.steady, []
    for step in range(1, 80):
        now = start + step * 0.1
        one.decide(now, [Waiting(arrived=now)])
        seen.append((now - start, one.steady))
    assert all(width == narrow for age, width in seen if age < 2.0)
    assert seen[-1][1] == 1.0


def test_after_idle_time_it_is_wide_at_once():
    one = governor()
    arrived = busy(one)
    assert one.decide(arrived, [Waiting(arrived=arrived)]).width < 1.0
    assert one.decide(arrived + 30, [Waiting(arrived=arrived + 30)]).width == 1.0


def test_bounds_hold_and_bounds_without_a_width_are_an_error():
    outcome = simulate(governor(min_width=0.5, max_width=0.75), poisson(3 * CAPACITY, 3), exact)
    assert {d.width for d in outcome.decisions} == {0.5, 0.75}
    with pytest.raises(WidthError, match=r"none of the widths 0.25, 0.5, 0.75, 1 is within \[0.3, 0.4\]"):
        governor(min_width=0.3, max_width=0.4)


def test_requests_can_ask_for_a_width_or_set_a_bound():
    queue = [Waiting(arrived=0, width=0.5), Waiting(arrived=0), Waiting(arrived=0, width=0.5)]
    decision = governor().decide(0.0, queue)
    assert (decision.width, decision.members, decision.reason) == (0.5, (0, 2), "asked")
    assert governor().decide(0.0, [Waiting(arrived=0, at_most=0.75)]).width == 0.75
    # Who asks for the full width takes time that the others then have not.
    pinned = governor().decide(0.0, [*waiting(1, 0.008), *[Waiting(arrived=-0.008, width=1.0)] * 4])
    assert (pinned.width, pinned.reason, pinned.members) == (0.25, "queue", (0,))
    assert governor().decide(0.0, waiting(5, 0.008)).width == 0.75
    busy = governor().decide(0.0, [Waiting(arrived=0, at_most=0.75)] * 20)
    assert (busy.width, busy.reason) == (0.25, "queue")
    assert len(governor().decide(0.0, [Waiting(arrived=0, together=n) for n in (1, 2, 1)]).members) == 2


def test_equal_calls_make_equal_decisions_and_they_are_logged(caplog):
    arrivals = poisson(2 * CAPACITY, 5)
    with caplog.at_level(logging.DEBUG, "anywidth.serving"):
        first = simulate(governor(), arrivals, exact)
    assert first.decisions == simulate(governor(), arrivals, exact).decisions
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if line.startswith("width by load 1 -> ")]) >= 1
    assert sum("ms expected" in line for line in lines) == len(first.decisions)


def test_a_target_that_cannot_be_met_is_said(caplog):
    with caplog.at_level(logging.WARNING, "anywidth.serving"):
        impossible = governor(target=0.001)
    assert "width 0.25 alone takes 1.56 ms, which leaves no time within the target of 1 ms" in caplog.text
    assert impossible.decide(0.0, waiting(5)).width == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 0.0}, "target is 0.0; give a number above 0"),
        ({"margin": 1.0}, "margin is 1.0; give a share from 0 to below 1"),
        ({"load": 1.5}, "load is 1.5 and adapt 0.1; give shares of at most 1"),
        ({"max_rows": 0}, "max_rows is 0"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings, message):
    with pytest.raises(WidthError, match=message):
        GovernorSettings(**{"target": 0.03, **settings})


@given(
    ages=st.lists(st.floats(0, 0.2), min_size=1, max_size=60),
    rows=st.integers(1, 4),
    rate=st.floats(1, 5000),
    drift=st.floats(0.3, 3),
    target=st.floats(0.002, 1),
)
def test_whatever_waits_a_decision_is_one(ages, rows, rate, drift, target):
    one = governor(target=target, max_rows=8)
    for step in range(20):
        one.arrived(step / rate)
        one.drift.observe(expected=1.0, measured=drift)
    queue = [Waiting(arrived=1 - age, rows=rows) for age in sorted(ages, reverse=True)]
    decision = one.decide(1.0, queue)
    assert decision.width in one.widths
    assert decision.members == tuple(range(len(decision.members)))
    assert decision.rows == rows * len(decision.members)
    assert decision.rows <= max(8, rows)
    # With one more of the oldest kind it is not wider.
    again = governor(target=target, max_rows=8)
    for step in range(20):
        again.arrived(step / rate)
        again.drift.observe(expected=1.0, measured=drift)
    assert again.decide(1.0, [queue[0], *queue]).width <= decision.width


@given(rows=st.integers(0, 200))
def test_the_wait_grows_with_the_queue(rows):
    one = governor()
    assert one.wait(rows) <= one.wait(rows + 1) + 1e-12
    assert (one.wait(rows) == 0) == (rows == 0)


def disturbed(width: float, rows: int, now: float) -> float:
    """The machine is four times slower now and then, which nobody can foresee."""
    return exact(width, rows, now) * (4 if now % 0.7 < 0.1 else 1)


def test_refinement_answers_in_time_what_a_fixed_choice_does_not():
    arrivals = poisson(0.7 * CAPACITY, 30, seed=5)
    refined = simulate(governor(), arrivals, disturbed, refine=True)
    chosen = simulate(governor(), arrivals, disturbed)
    assert refined.answered_within(TARGET) > chosen.answered_within(TARGET)
    assert {decision.reason for decision in refined.decisions} > {"deadline", "load"}
    assert refined.decisions == simulate(governor(), arrivals, disturbed, refine=True).decisions


def test_without_haste_refinement_reaches_the_full_width():
    outcome = simulate(governor(), poisson(0.1 * CAPACITY, 10), exact, refine=True)
    assert outcome.answered_within(TARGET) == 1
    assert outcome.mean_width > 0.99


@given(
    age=st.floats(0, 0.05),
    late=st.floats(0, 0.05),
    count=st.integers(0, 6),
    rows=st.integers(1, 8),
    place=st.integers(0, 2),
)
def test_refinement_goes_on_only_if_all_can_be_in_time(age: float, late: float, count: int, rows: int, place: int):
    one = governor()
    decision = one.decide(0.0, [Waiting(arrived=-age, rows=rows)])
    decision = dataclasses.replace(decision, width=1.0)
    queue = waiting(count, late)
    on = one.goes_on(0.0, decision, WIDTHS[place], [Waiting(arrived=-age, rows=rows)], queue)
    step = one.seconds(WIDTHS[place + 1], rows) - one.seconds(WIDTHS[place], rows)
    limit = TARGET * (1 - one.settings.margin)
    if on:
        assert age + step <= limit
        assert not count or one.hopeless(0.0, queue[0]) or late + step + one.seconds(0.25, 1) <= limit
    elif not count:
        assert age + step > limit


def test_refinement_starts_below_the_bounds_and_reaches_what_is_asked_for():
    bounded = governor(min_width=0.5)
    decision = bounded.decide(0.0, waiting(1, age=10.0))
    assert decision.width == 0.5
    assert bounded.goes_on(10.0, decision, 0.25, waiting(1, age=10.0), [])
    asked = [Waiting(arrived=-10.0, width=1.0)]
    assert governor().goes_on(0.0, governor().decide(0.0, asked), 0.25, asked, waiting(3))
