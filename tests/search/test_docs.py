"""The examples of docs/search.md, run as they stand there."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import anywidth as aw
import anywidth.cost as costs
from anywidth.search import SearchResult

PAGE = Path(__file__).parents[2] / "docs" / "search.md"


@pytest.mark.parametrize("per_mac", [1e-6, 1e-9])
def test_the_page_runs(monkeypatch, per_mac: float) -> None:
    # Measured times of so small a network are those of the machine's other work. Mostly, a constant dominates.
    measure = lambda net, config: 0.05 + per_mac * aw.macs(net, config)  # noqa: E731
    monkeypatch.setattr(costs, "fit_latency", partial(costs.fit_latency, measure=measure))
    names: dict[str, Any] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    assert isinstance(names["found"], SearchResult)
    assert names["found"].unit == "ms"
    assert len(names["evolved"].evaluated) <= 20
    assert names["config"]["0"] == 24
    assert names["front"]
