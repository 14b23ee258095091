"""The measured part of a page: what is in its tables, and where it is put."""

from __future__ import annotations

from pathlib import Path

from anywidth.reproduce import Claim, Experiment, Point, Record, Results, Setup, higher
from anywidth.reproduce.page import page, update_page

ABOUT = {"anywidth": "0", "torch": "0", "python": "0", "machine": "a", "cores": 2, "processes": 1, "day": "today"}


def experiment(**changes) -> Experiment:
    claims = [Claim(text="a is better", difference=higher("a", "b")), Claim(text="b is", difference=higher("b", "a"))]
    return Experiment(**{"title": "t", "paper": "p", "cells": {}, "claims": claims, **changes})


def record(widths: tuple[float, ...]) -> Record:
    arms = {
        arm: {seed: [Point(x=x, y=base + seed + 10 * x) for x in widths] for seed in (0, 1)}
        for arm, base in (("a", 50.0), ("b", 40.0))
    }
    return Record(name="n", setup=Setup().as_json(), results=Results(arms), seconds=3.0, about=ABOUT)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def test_tables_have_mean_spread_and_verdicts() -> None:
    text = page(experiment(columns=(0.5, 1.0)), record((0.25, 0.5, 1.0)))
    head, _, a, b, _, _, better, worse = rows(text)
    assert head == ["top-1 accuracy (%), by width", "0.5", "1", "mean"]
    assert a == ["a", "55.5 ± 0.7", "60.5 ± 0.7", "56.3 ± 0.7"]
    assert b[1:3] == ["45.5 ± 0.7", "50.5 ± 0.7"]
    assert better == ["a is better", "paper", "above 0", "+10.00 ± 0.00", "**holds**"]
    assert worse[2:] == ["above 0", "-10.00 ± 0.00", "**contradicted**"]


def test_the_difference_is_shown_as_measured_whatever_is_claimed() -> None:
    claims = [Claim(text=f"b above {above}", difference=higher("b", "a"), above=above) for above in (-12.5, -7)]
    holds, contradicted = rows(page(experiment(claims=claims), record((0.5, 1.0))))[-2:]
    assert holds[2:] == ["above -12.5", "-10.00 ± 0.00", "**holds**"]
    assert contradicted[2:] == ["above -7", "-10.00 ± 0.00", "**contradicted**"]


def test_columns_that_a_model_lacks_give_way_to_its_own() -> None:
    text = page(experiment(columns=(0.25, 0.5, 1.0)), record((0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)))
    assert rows(text)[0][1:] == ["0.35", "0.6", "0.8", "1", "mean"]


def test_a_mean_that_means_nothing_is_left_out() -> None:
    assert rows(page(experiment(average=False), record((0.5, 1.0))))[0][-1] == "1"


def test_the_measured_part_is_replaced_and_words_around_it_stay(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    assert not update_page(file, "x")
    file.write_text("no marks")
    assert not update_page(file, "x")
    marks = "<!-- measured: written by anywidth reproduce -->", "<!-- end of measured -->"
    file.write_text(f"before\n{marks[0]}\nold \\1\n{marks[1]}\nafter\n")
    for text in ("new \\1\n", "newer\n"):
        assert update_page(file, text)
        assert file.read_text() == f"before\n{marks[0]}\n\n{text}\n{marks[1]}\nafter\n"
