"""The picture of the servers under load."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from anywidth.evaluation.style import INK, LINE, OTHERS, QUIET, style_axes

__all__ = ["draw"]


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Answers in time, their 99th percentile and their accuracy against the offered load, for both servers.

    Lines are medians over runs; shaded areas show the range.
    """
    figure = Figure(figsize=(9.6, 3.4), dpi=200, layout="constrained")
    in_time, slowest, accuracy = figure.subplots(1, 3)
    for name, colour, marker in (("any width", LINE, "o"), ("full width", OTHERS[0], "D")):
        mine = [{**row, "slowest": row["p99_ms"] / row["target_ms"]} for row in rows if row["server"] == name]
        loads = sorted({row["load"] for row in mine})
        style = {"color": colour, "marker": marker, "markeredgecolor": "white", "linewidth": 2, "label": name}
        for axes, key in ((in_time, "in_time_percent"), (slowest, "slowest"), (accuracy, "accuracy")):
            runs = [[row[key] for row in mine if row["load"] == load] for load in loads]
            axes.fill_between(
                loads, [min(r) for r in runs], [max(r) for r in runs], color=colour, alpha=0.2, linewidth=0
            )
            axes.plot(loads, [statistics.median(r) for r in runs], **style)
    slowest.axhline(1, color=QUIET, linestyle="--", linewidth=1)
    slowest.set_ylim(bottom=0)
    in_time.set_ylim(0, 104)
    low = min(row["accuracy"] for row in rows)
    accuracy.set_ylim(min(low - 1, 95), 100)
    titles = ("answered in time (%)", "99th percentile of answers / target", "accuracy of answers (%)")
    for axes, title in zip((in_time, slowest, accuracy), titles, strict=True):
        style_axes(axes)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_xlabel("offered load / capacity of the full width", color=QUIET, fontsize=9)
    in_time.legend(frameon=False, loc="lower left", fontsize=9, labelcolor=INK)
    figure.savefig(path)
