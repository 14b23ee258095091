"""The coverage page says what the table says."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROW = {
    "model": "timm/a", "family": "a", "status": "ok", "mparams": "1.5", "elastic_macs": "0.9962", "params_half": "0.3",
    "params_min": "0.1", "seconds": "0.5", "reasons": "",
}  # fmt: skip


@pytest.fixture
def write_page(monkeypatch) -> Callable[..., Path]:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("coverage_page").write_page


@pytest.mark.parametrize(("share", "text"), [("1.0", "100%"), ("0.9962", ">99%"), ("0.9949", "99%"), ("0.0", "0%")])
def test_only_a_whole_network_is_elastic_to_100_percent(share: str, text: str, tmp_path: Path, write_page) -> None:
    page = write_page([{**ROW, "elastic_macs": share}], tmp_path / "page.md", jobs=1).read_text()
    assert f"| timm/a | a | 1.5 | {text} | 0.30 | 0.10 | 0.5 |  |" in page


def test_cut_error_messages_keep_their_parentheses(tmp_path: Path, write_page) -> None:
    reasons = "does not run (RuntimeError in 'a.1' (5); depends (by shuffles) (2); spatial at conv (1)"
    page = write_page([{**ROW, "reasons": reasons}], tmp_path / "page.md", jobs=1).read_text()
    assert "| does not run (RuntimeError in 'a.1') (5); depends (by shuffles) (2); spatial at conv (1) |" in page


def test_the_page_in_the_documentation_is_that_of_the_table(tmp_path: Path, write_page) -> None:
    with (ROOT / "benchmarks" / "results" / "coverage.csv").open() as file:
        page = write_page(list(csv.DictReader(file)), tmp_path / "page.md", jobs=1)
    assert page.read_text() == (ROOT / "docs" / "coverage.md").read_text()
