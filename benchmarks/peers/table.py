"""The Markdown table of all finished arms."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anywidth.reproduce.page import update_page

__all__ = ["END", "START", "TOLERANCE", "read", "table", "write"]

START, END = "<!-- measured: written by run.sh table --write -->", "<!-- end of measured -->"

TOLERANCE = 0.05
"""Largest accepted deviation of the processor time from that of the comparison."""

Record = Mapping[str, Any]


def read(folder: Path) -> list[Record]:
    """The records of a folder.

    Raises:
        ValueError: there are none, or their settings differ.
    """
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not records:
        raise ValueError(f"{folder} contains no results; run the comparison first")
    for record in records[1:]:
        if record["setup"] != records[0]["setup"]:
            raise ValueError(f"{folder} contains results of different settings; use a separate folder for each")
    return records


def table(records: Sequence[Record], order: Mapping[str, str]) -> str:
    """Accuracy at each budget, and epochs and time of each arm: mean and standard deviation over seeds.

    Args:
        records: Records of equal settings.
        order: Titles of the arms by name, in the order of the rows.
    """
    setup = records[0]["setup"]
    budgets = [network["budget"] for network in records[0]["networks"]]
    columns = [f"{budget / 1e6:.2f}M" for budget in budgets]
    lines = [
        f"| top-1 accuracy (%), by budget of MACs | {' | '.join(columns)} | mean | epochs | seconds |",
        "|---|" + "---|" * (len(columns) + 3),
    ]
    versions: dict[str, str] = {}
    late = []
    for arm, title in order.items():
        seeds = [record for record in records if record["arm"] == arm]
        if not seeds:
            continue
        scores = [[network["accuracy"] for network in record["networks"]] for record in seeds]
        cells = [_cell(column) for column in zip(*scores, strict=True)] + [_cell([*map(statistics.mean, scores)])]
        seconds = [record["seconds"] for record in seeds]
        lines.append(f"| {title} | {' | '.join(cells)} | {_epochs(seeds)} | {statistics.mean(seconds):.0f} |")
        late += [
            f"{arm} with seed {record['seed']} ({record['seconds']:.0f} s)"
            for record in seeds
            if abs(record["seconds"] / setup["seconds"] - 1) > TOLERANCE
        ]
        versions |= seeds[0]["versions"]
    names = sorted({record["seed"] for record in records})
    about = (
        f"{setup['data']} at {setup['image_size']} pixels, `{setup['model']}`, {setup['seconds']:g} s of processor "
        f"time per arm and seed, seeds {', '.join(map(str, names))} (mean ± standard deviation). "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; {records[0]['processor']}, one thread."
    )
    parts = [about, "\n".join(lines)]
    if late:
        parts.append(f"Time more than {TOLERANCE:.0%} off: {', '.join(late)}.")
    return "\n\n".join(parts)


def write(page: Path, text: str) -> None:
    """Put a table between the two marks of a page.

    Raises:
        ValueError: the page lacks the marks.
    """
    if not update_page(page, f"{text}\n", start=START):
        raise ValueError(f"{page} lacks the lines {START} and {END}")


def _cell(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def _epochs(seeds: Sequence[Record]) -> str:
    """Epochs of every training, averaged over seeds; the same number for several trainings is written once."""
    each = zip(*([phase["epochs"] for phase in record["phases"]] for record in seeds), strict=True)
    found = [f"{statistics.mean(values):.1f}" for values in each]
    grouped: list[list[str]] = []
    for number in found:
        if grouped and grouped[-1][0] == number:
            grouped[-1].append(number)
        else:
            grouped.append([number])
    return " + ".join(group[0] if len(group) == 1 else f"{len(group)} x {group[0]}" for group in grouped)
