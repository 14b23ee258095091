"""Numbers and tables for reading."""

from __future__ import annotations

import pytest
from rich.console import Console

from anywidth.evaluation import Row, Spectrum
from anywidth.report import cost_table, count, seconds, spectrum_table


def lines(table: object) -> list[list[str]]:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table)
    return [line.split() for line in capture.get().splitlines() if line.strip() and "─" not in line]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (999_600, "1.00 M"), (99_960, "100 k"), (4_089_284_000, "4.09 G")],
)
def test_counts_have_three_digits(value, text):
    assert count(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (7260, "2 h 1 min")])
def test_durations(value, text):
    assert seconds(value) == text


def test_a_spectrum_with_networks_trained_alone():
    curve = Spectrum([Row(width=w, macs=int(1000 * w), params=7, score=90 + w) for w in (0.25, 1.0)])
    alone = Spectrum([Row(width=1.0, macs=1000, params=7, score=91.5)], "alone")
    head, narrow, wide = lines(spectrum_table(curve, alone))
    assert head == ["width", "MACs", "parameters", "accuracy", "trained", "alone"]
    assert narrow == ["0.25", "250", "7", "90.25", "%"]
    assert wide == ["1", "1.00", "k", "7", "91.00", "%", "91.50", "%"]


def test_a_spectrum_of_named_widths():
    curve = Spectrum([Row(width="config 12", macs=1, params=1, score=50.0)])
    assert lines(spectrum_table(curve))[1][:2] == ["config", "12"]


def test_costs_come_with_their_share_of_the_full_network():
    _, half, full = lines(cost_table([(0.5, 300, 50), (1.0, 1000, 100)]))
    assert half == ["0.5", "300", "30.0%", "50", "50.0%"]
    assert full == ["1", "1.00", "k", "100.0%", "100", "100.0%"]
