"""Plot of a search: its steps, and the channels of the networks that it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anywidth.core.files import write_atomically
from anywidth.evaluation.style import INK, LINE, OTHERS, QUIET, RULE, require_matplotlib, style_axes
from anywidth.search.found import Found, Step
from anywidth.search.scores import Evaluated
from anywidth.tasks import Quantity

__all__ = ["draw"]

_NAMES = 28
"""Largest number of groups that are named on the axis."""


def draw(
    path: Path,
    *,
    full: Mapping[str, int],
    evaluated: Sequence[Evaluated],
    steps: Sequence[Step],
    found: Sequence[Found],
    cost: str,
    quantity: Quantity,
    title: str,
) -> Path:
    """Plot the score against cost, and the channels per group; the arguments are attributes of `SearchResult`.

    Args:
        path: File to write, in the format of its extension.
        full: Channels of every group in the widest network.
        evaluated: All evaluated networks.
        steps: Steps of the search, if any.
        found: Network found for every budget.
        cost: Label of the cost axis.
        quantity: What the score is.
        title: Title of the plot.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    wide = min(18.0, 8.0 + 0.28 * len(full))
    figure = require_matplotlib().Figure(figsize=(wide, 4.6), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[5, wide - 5])
    _trajectory(left, evaluated, steps, found, cost, quantity)
    _channels(right, full, found)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold", color=INK)
    kind = path.suffix.lstrip(".") or "png"
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind))


def _trajectory(
    axes: Any,
    evaluated: Sequence[Evaluated],
    steps: Sequence[Step],
    found: Sequence[Found],
    cost: str,
    quantity: Quantity,
) -> None:
    from matplotlib.ticker import EngFormatter

    axes.scatter(
        [n.cost for n in evaluated], [n.score for n in evaluated],
        s=7, color="#c3c9d2", linewidth=0, label="evaluated", zorder=1,
    )  # fmt: skip
    if steps:
        way = [step.network for step in steps]
        axes.plot(
            [n.cost for n in way], [n.score for n in way], color=LINE, linewidth=2, label="steps of the search",
            zorder=2,
        )  # fmt: skip
    for item, colour in zip(found, OTHERS * len(found), strict=False):
        axes.scatter(
            [item.network.cost], [item.network.score], s=60, marker="D", color=colour, edgecolor="white",
            linewidth=0.9, label=f"budget {item.budget}", zorder=3,
        )  # fmt: skip
    axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
    axes.set_xlabel(cost, color=QUIET)
    axes.set_ylabel(f"{quantity} on held-out data, weights shared", color=QUIET)
    style_axes(axes)
    corner = "lower right" if quantity.higher_is_better else "upper right"
    axes.legend(frameon=False, loc=corner, fontsize=8, labelcolor=INK)


def _channels(axes: Any, full: Mapping[str, int], found: Sequence[Found]) -> None:
    names = list(full)
    axes.bar(range(len(names)), list(full.values()), color=RULE, width=0.85, label="widest", zorder=1)
    for item, colour in zip(found, OTHERS * len(found), strict=False):
        axes.plot(
            range(len(names)), [item.network.config[name] for name in names], color=colour, linewidth=1.6, marker="D",
            markersize=4, markeredgecolor="white", markeredgewidth=0.5, label=f"budget {item.budget}", zorder=2,
        )  # fmt: skip
    axes.set_ylabel("channels", color=QUIET)
    style_axes(axes)
    axes.grid(False, axis="x")
    if len(names) <= _NAMES:
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    else:
        axes.set_xlabel("channel group, from input to output", color=QUIET)
    axes.legend(frameon=False, loc="upper left", fontsize=8, labelcolor=INK)
