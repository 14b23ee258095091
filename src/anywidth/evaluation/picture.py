"""The picture of a spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anywidth.evaluation.spectrum import Spectrum, require_matplotlib
from anywidth.supernet.checkpoint import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_INK, _LINE, _POINTS = "#1b1f24", "#0b6e99", ["#c2410c", "#4d7c0f", "#7e22ce", "#a16207"]


def draw(curve: Spectrum, path: str | Path | None, others: Mapping[str, Spectrum], title: str) -> Axes:
    """Accuracy against MACs (millions, logarithmic); see `Spectrum.plot`."""
    figure = require_matplotlib().Figure(figsize=(6.4, 4.0), dpi=160, layout="constrained")
    axes = figure.subplots()
    _line(axes, curve)
    for (name, points), colour in zip(others.items(), _POINTS * 4, strict=False):
        axes.scatter(
            [row.macs / 1e6 for row in points],
            [row.accuracy for row in points],
            s=46, marker="D", color=colour, edgecolor="white", linewidth=0.8, zorder=3, label=name,
        )  # fmt: skip
    axes.set_xscale("log")
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    ticks = sorted({_two_digits(row.macs / 1e6) for row in curve if _is_round(row.width)} or {1.0})
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel("MACs (millions, logarithmic)", color=_INK)
    axes.set_ylabel("accuracy (%)", color=_INK)
    axes.grid(True, axis="y", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#9ca3af")
    axes.tick_params(colors="#4b5563")
    if title:
        axes.set_title(title, loc="left", fontsize=11, color=_INK)
    if others:
        axes.legend(frameon=False, loc="lower right")
    if path is not None:
        kind = Path(path).suffix.lstrip(".") or "png"
        write_atomically(Path(path), lambda temporary: figure.savefig(temporary, format=kind))
    return axes


def _line(axes: Any, curve: Spectrum) -> None:
    rows = sorted(curve, key=lambda row: row.macs)
    axes.plot(
        [row.macs / 1e6 for row in rows],
        [row.accuracy for row in rows],
        color=_LINE, linewidth=2.2, marker="o", markersize=4.5, label=curve.name, zorder=2,
    )  # fmt: skip
    for row in rows:
        if _is_round(row.width):
            axes.annotate(
                f"{row.width:g}×", (row.macs / 1e6, row.accuracy), textcoords="offset points",
                xytext=(0, 8), ha="center", fontsize=8, color=_LINE,
            )  # fmt: skip


def _is_round(width: float | str) -> bool:
    return not isinstance(width, str) and abs(width * 4 - round(width * 4)) < 1e-6


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
