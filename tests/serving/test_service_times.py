"""Times of widths: lines between what was measured, and noise that contradicts itself taken out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anywidth.core.errors import WidthError
from anywidth.serving import ServiceTimes, measure
from anywidth.serving.service_times import batch_sizes

seconds = st.floats(1e-6, 10)


@given(st.lists(st.lists(seconds, min_size=3, max_size=3), min_size=1, max_size=5), st.integers(1, 20))
def test_wider_and_larger_is_never_quicker(table, rows):
    times = ServiceTimes({(i + 1) / 10: dict(zip((1, 4, 9), row, strict=True)) for i, row in enumerate(table)})
    for width in times.widths:
        assert times.seconds(width, rows) <= times.seconds(width, rows + 1) * (1 + 1e-9)
    for narrow, wide in zip(times.widths, times.widths[1:], strict=False):
        assert times.seconds(narrow, rows) <= times.seconds(wide, rows) * (1 + 1e-9)


def test_what_was_measured_comes_back_and_between_is_a_line():
    times = ServiceTimes({1.0: {2: 0.2, 4: 0.3}})
    assert [round(times.seconds(1.0, rows), 6) for rows in (1, 2, 3, 4, 8)] == [0.2, 0.2, 0.25, 0.3, 0.6]


def test_wrong_tables_are_errors():
    for table in ({}, {1.0: {}}, {0.5: {1: 1.0}, 1.0: {2: 1.0}}):
        with pytest.raises(WidthError, match="at least one width, and the same batch sizes"):
            ServiceTimes(table)
    with pytest.raises(WidthError, match=r"width 1 was measured to take 0.0 s"):
        ServiceTimes({1.0: {1: 0.0}})


def test_measuring_takes_the_median_and_takes_turns():
    now, calls = [0.0], []

    def run(width: float, rows: int) -> None:
        calls.append((width, rows))
        disturbed = 50 if len(calls) in (7, 8) else 1
        now[0] += width * rows * disturbed

    times = measure(run, [0.5, 1.0], [1, 2], rounds=3, clock=lambda: now[0])
    assert calls[:4] == calls[4:8] == [(0.5, 1), (0.5, 2), (1.0, 1), (1.0, 2)]
    assert len(calls) == 16
    assert [times.seconds(w, n) for w, n in calls[:4]] == [0.5, 1.0, 1.0, 2.0]


def test_batch_sizes_end_with_the_largest():
    assert batch_sizes(1) == [1]
    assert batch_sizes(32) == [1, 2, 4, 8, 16, 32]
    assert batch_sizes(33)[-2:] == [32, 33]
