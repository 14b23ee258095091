"""Found networks against uniformly narrowed ones of the same cost, all trained from scratch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from anywidth.core.files import write_atomically
from anywidth.cost import macs
from anywidth.data import hold_out, make_loaders
from anywidth.evaluation.style import INK, OTHERS, QUIET, RULE, require_matplotlib, style_axes
from anywidth.reproduce import Claim, Context, Curve, Experiment, Point, Results, higher
from anywidth.search import Scorer, SearchData, search
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig

WIDTHS = (0.4, 0.55, 0.7)
"""Uniform widths whose MACs are the budgets."""
HELD_OUT = 0.2
SMOOTHING = 0.1
EVALUATIONS = 150

GREEDY, EVOLVED, UNIFORM = "found by greedy slimming", "found by evolution", "uniform"
CHANNELS = "channels: "


def searched(context: Context) -> Mapping[str, Curve]:
    """Train a supernet, search it for the budgets by both methods, and train the results from scratch."""
    # The search uses a separate part of the training images; found networks are trained on all of them.
    searching = copy.copy(context)
    searching.bundle, held_out = hold_out(context.bundle, HELD_OUT, seed=context.seed)
    net = searching.train(searching.supernet(), "supernet", nonuniform=True)
    loaders = make_loaders(replace(searching.bundle, test=held_out), batch_size=500, seed=context.seed)
    scorer = Scorer(net, SearchData.of(loaders.calibration, loaders.test), macs)
    budgets = [float(macs(net, width)) for width in sorted(WIDTHS, reverse=True)]
    greedy = search(scorer, budgets)
    evolved = search(scorer, budgets, "evolution", evaluations=EVALUATIONS, seed=context.seed)
    arms: dict[str, Curve] = {}
    for name, found in ((GREEDY, greedy), (EVOLVED, evolved)):
        configs = dict(zip(sorted(WIDTHS, reverse=True), found, strict=True))
        arms[name] = [point for width in WIDTHS for point in _train(context, net, configs[width], width, name)]
        if name == GREEDY:
            for width in WIDTHS:
                arms[f"{CHANNELS}{width:g}"] = _channels(configs[width])
    arms[f"{CHANNELS}widest"] = _channels(net.config(1.0))
    return arms


def uniform(context: Context) -> Mapping[str, Curve]:
    """Uniform widths, each trained from scratch."""
    net = context.supernet()
    arms: dict[str, Curve] = {UNIFORM: [p for w in WIDTHS for p in _train(context, net, net.config(w), w, UNIFORM)]}
    for width in WIDTHS:
        arms[f"{CHANNELS}uniform {width:g}"] = _channels(net.config(width))
    return arms


def _train(context: Context, net: Supernet, config: WidthConfig, width: float, name: str) -> Curve:
    return context.train_alone(net, config, x=width, name=f"{name}-{width:g}", smoothing=SMOOTHING)


def _channels(config: WidthConfig) -> Curve:
    return [Point(x=name, y=float(number)) for name, number in config.items()]


def draw_channels(results: Results, path: Path) -> Path:
    """Channels of every group: the widest network, and for every budget the found and the uniform one."""
    names = [str(x) for x in results.xs(f"{CHANNELS}widest")]
    figure = require_matplotlib().Figure(figsize=(min(18, 5.5 + 0.35 * len(names)), 4.6), dpi=160, layout="constrained")
    axes = figure.subplots()
    places = range(len(names))

    def values(arm: str) -> list[float]:
        return [results.mean(f"{CHANNELS}{arm}", name) for name in names]

    axes.bar(places, values("widest"), color=RULE, width=0.85, label="widest", zorder=1)
    for width, colour in zip(WIDTHS, OTHERS, strict=False):
        axes.plot(
            places, values(f"{width:g}"), color=colour, marker="D", markersize=4, linewidth=1.8,
            markeredgecolor="white", markeredgewidth=0.5, label=f"found at the MACs of {width:g}",
            zorder=3,
        )  # fmt: skip
        axes.plot(
            places, values(f"uniform {width:g}"), color=colour, linewidth=1, linestyle=":", label=f"uniform {width:g}",
            zorder=2,
        )  # fmt: skip
    if len(names) <= 28:
        axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_xlabel("channel group, from input to output", color=QUIET)
    axes.set_ylabel("channels, mean over seeds", color=QUIET)
    style_axes(axes)
    axes.grid(False, axis="x")
    figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8, labelcolor=INK,
                  title="Channels per group: greedy slimming and uniform widths", alignment="left")  # fmt: skip
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png"))


EXPERIMENT = Experiment(
    title="Searched channel numbers against uniform ones, at equal MACs, trained from scratch",
    paper="AutoSlim (arXiv 1903.11728)",
    cells={"search": searched, "uniform": uniform},
    claims=[
        Claim(
            text="found networks are better than uniform ones of the same MACs, mean of three budgets",
            difference=higher(GREEDY, UNIFORM),
        ),
        Claim(
            text="they are better at the smallest budget",
            difference=higher(GREEDY, UNIFORM, min(WIDTHS)),
        ),
        Claim(
            text="on average they are not worse by more than 0.5 points",
            difference=higher(GREEDY, UNIFORM),
            above=-0.5,
            source="ours",
        ),
        Claim(
            text=f"greedy slimming finds better networks than the evolution of {EVALUATIONS}",
            difference=higher(GREEDY, EVOLVED),
            source="ours",
        ),
    ],
    x="uniform width of the same MACs",
    against_macs=True,
    hidden=CHANNELS,
    pictures={"channels.png": draw_channels},
)
