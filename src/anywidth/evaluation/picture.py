"""Plot of a spectrum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anywidth.core.files import write_atomically
from anywidth.evaluation.row import Row
from anywidth.evaluation.style import INK, LINE, OTHERS, QUIET, require_matplotlib, style_axes
from anywidth.tasks import Quantity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_SPAN = 2.0
"""Smallest range of percentages in the plot, in percentage points, so that noise does not look like a result."""


def draw(
    curve: Sequence[Row],
    path: str | Path | None,
    *,
    name: str,
    quantity: Quantity,
    others: Mapping[str, Sequence[Row]],
    title: str,
) -> Axes:
    """Plot the score against MACs (logarithmic), with the widths below; see `Spectrum.plot`."""
    figure = require_matplotlib().Figure(figsize=(6.4, 4.2), dpi=200, layout="constrained")
    axes = figure.subplots()
    rows = sorted(curve, key=lambda row: row.macs)
    axes.plot(
        [row.macs for row in rows],
        [row.score for row in rows],
        color=LINE, linewidth=2, marker="o", markersize=6, markeredgecolor="white", label=name, zorder=2,
    )  # fmt: skip
    for (other, points), colour in zip(others.items(), OTHERS * (1 + len(others) // len(OTHERS)), strict=False):
        axes.scatter(
            [row.macs for row in points],
            [row.score for row in points],
            s=56, marker="D", color=colour, edgecolor="white", linewidth=0.9, label=other, zorder=3,
        )  # fmt: skip
    _scale(axes, curve, quantity)
    style_axes(axes)
    if title:
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=12)
    if others:
        axes.legend(
            frameon=False, loc="lower right" if quantity.higher_is_better else "upper right", fontsize=9, labelcolor=INK
        )
    if path is not None:
        kind = Path(path).suffix.lstrip(".") or "png"
        write_atomically(Path(path), lambda temporary: figure.savefig(temporary, format=kind))
    return axes


def _scale(axes: Any, curve: Sequence[Row], quantity: Quantity) -> None:
    """Set axis ticks at round widths, with MACs and the width below."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_xscale("log")
    engineering = EngFormatter(sep=" ")
    marks = {row.macs: f"{engineering(float(f'{row.macs:.2g}'))}\n{row.width:g}×" for row in curve if _is_round(row)}
    if marks:
        axes.set_xticks(list(marks), list(marks.values()))
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(engineering)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("MACs (logarithmic) and width" if marks else "MACs (logarithmic)", color=QUIET)
    axes.set_ylabel(str(quantity), color=QUIET)
    low, high = axes.get_ylim()
    if quantity.unit == "%" and high - low < _SPAN:
        # Percentages end at 100; leave only a little room for the marker above.
        high = min((low + high + _SPAN) / 2, max(high, 100 + _SPAN / 20))
        axes.set_ylim(high - _SPAN, high)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _is_round(row: Row) -> bool:
    return not isinstance(row.width, str) and float(row.width * 4).is_integer()
