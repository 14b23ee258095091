"""The picture of an experiment: a line per arm, with its spread over the seeds."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from anywidth.core.files import write_atomically
from anywidth.evaluation.style import INK, LINE, OTHERS, QUIET, require_matplotlib, style_axes
from anywidth.reproduce.experiment import Experiment
from anywidth.reproduce.results import Results

__all__ = ["draw"]

_COLOURS = [LINE, *OTHERS, "#0f766e", "#be185d", "#475569", "#65a30d", "#0369a1"]
_MARKERS = "osD^vPX*hd"


def draw(experiment: Experiment, results: Results, path: Path, *, note: str = "") -> Path:
    """Draw all arms; those named `PANEL | ARM` share a panel with the same first part.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    panels: dict[str, list[str]] = {}
    for arm in experiment.shown(results):
        panels.setdefault(arm.partition(" | ")[0] if " | " in arm else "", []).append(arm)
    figure = require_matplotlib().Figure(figsize=(1.2 + 5.6 * len(panels), 4.4), dpi=160, layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (panel, arms) in zip(grid, panels.items(), strict=True):
        for number, arm in enumerate(arms):
            if experiment.highlight and _label(arm) != experiment.highlight:
                _quiet_line(axes, results, arm, number)
            else:
                _line(axes, experiment, results, arm, number)
        _axes(axes, experiment, results, arms)
        if panel:
            axes.set_title(panel, fontsize=10, color=QUIET, loc="left")
    grid[0].set_ylabel(experiment.y, color=QUIET)
    entries: dict[str, Any] = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        entries.update(dict(zip(labels, handles, strict=True)))
    title = textwrap.fill(experiment.title, 72 * len(panels))
    bold = {"size": 11, "weight": "bold"}
    if len(entries) > 1:
        columns = 2 * len(panels) if len(entries) > 3 else len(entries)
        legend = figure.legend(
            list(entries.values()), list(entries), loc="outside upper left", ncols=columns, frameon=False, fontsize=8,
            labelcolor=INK, title=title, title_fontproperties=bold, alignment="left",
        )  # fmt: skip
        legend.get_title().set_color(INK)
    else:
        figure.suptitle(title, x=0.01, ha="left", color=INK, fontproperties=bold)
    if note:
        figure.supxlabel(note, x=0.01, ha="left", fontsize=7.5, color=QUIET)
    kind = path.suffix.lstrip(".")
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format=kind))


def _line(axes: Any, experiment: Experiment, results: Results, arm: str, number: int) -> None:
    xs, ys = results.xs(arm), [results.mean(arm, x) for x in results.xs(arm)]
    spread = [results.spread(arm, x) for x in xs]
    places: list[Any] = list(results.macs(arm)) if experiment.against_macs else list(xs)
    if experiment.against_macs:
        order = sorted(range(len(places)), key=lambda i: places[i])
        places, ys, spread = ([part[i] for i in order] for part in (places, ys, spread))
    colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
    names = all(isinstance(x, str) for x in xs)
    low, high = ([y + sign * s for y, s in zip(ys, spread, strict=True)] for sign in (-1, 1))
    label = _label(arm)
    if names or len(xs) == 1:
        axes.errorbar(
            places, ys, yerr=spread, fmt=marker, color=colour, markersize=6, capsize=2, linewidth=1.2,
            markeredgecolor="white", label=label, zorder=3,
        )  # fmt: skip
        return
    axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(
        places, ys, color=colour, linewidth=1.8, marker=marker, markersize=4.5, markeredgecolor="white",
        markeredgewidth=0.6, label=label, zorder=2,
    )  # fmt: skip


def _quiet_line(axes: Any, results: Results, arm: str, number: int) -> None:
    """Draw one of many similar arms; only the first is in the legend."""
    ys = [results.mean(arm, x) for x in results.xs(arm)]
    axes.plot(
        results.xs(arm), ys, color="#9ca3af", linewidth=0.8, label="each of them" if number == 1 else None, zorder=1
    )  # fmt: skip


def _label(arm: str) -> str:
    return arm.partition(" | ")[2] or arm


def _axes(axes: Any, experiment: Experiment, results: Results, arms: list[str]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator, StrMethodFormatter

    if experiment.against_macs:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=" "))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("MACs (logarithmic)", color=QUIET)
    else:
        if experiment.scale == "log":
            axes.set_xscale("symlog" if any(0 in results.xs(arm) for arm in arms) else "log", base=2)
            marks = sorted({x for arm in arms for x in results.xs(arm) if not isinstance(x, str)})
            axes.set_xticks(marks)
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(experiment.x, color=QUIET)
    style_axes(axes)
