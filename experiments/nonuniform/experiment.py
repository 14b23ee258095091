"""One stage narrower than the others, after training at uniform and at nonuniform widths."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from anywidth.evaluation import width_grid, widths_by_stage
from anywidth.reproduce import Claim, Context, Curve, Difference, Experiment, Results, higher

FACTOR = 0.6
UNIFORM, NONUNIFORM = "trained at uniform widths", "trained at nonuniform widths"
ALL, STAGE = "all stages alike", f"one stage at {FACTOR:g}"


def train(context: Context, *, panel: str, nonuniform: bool) -> Mapping[str, Curve]:
    """A supernet at uniform widths, and with every stage in turn at 0.6."""
    net = context.train(context.supernet(), "supernet", nonuniform=True) if nonuniform else context.us_net()
    by_stage = {f"{stage}": width for stage, width in widths_by_stage(net, FACTOR).items()}
    return {
        f"{panel} | {ALL}": context.spectrum(net, width_grid(net.min_width, 6)),
        f"{panel} | {STAGE}": context.spectrum(net, by_stage),
    }


def worst_stage(results: Results) -> Difference:
    """The worst network with one stage at 0.6, over the uniform one at 0.55, in points."""
    arm = f"{UNIFORM} | {STAGE}"
    stages = [results.values(arm, stage) for stage in results.xs(arm)]
    widths = [x for x in results.xs(f"{UNIFORM} | {ALL}") if isinstance(x, float) and x < FACTOR]
    uniform = results.values(f"{UNIFORM} | {ALL}", max(widths))
    return Difference.of([min(found) - all_ for *found, all_ in zip(*stages, uniform, strict=True)])


EXPERIMENT = Experiment(
    title="Nonuniform widths: one stage narrowed to 0.6",
    paper="US-Nets (arXiv 1903.05134)",
    cells={
        "uniform": partial(train, panel=UNIFORM, nonuniform=False),
        "nonuniform": partial(train, panel=NONUNIFORM, nonuniform=True),
    },
    claims=[
        Claim(
            text="every stage can be narrowed alone: the worst is at most 0.5 points below all stages narrowed as much",
            difference=worst_stage,
            above=-0.5,
        ),
        Claim(
            text="training at nonuniform widths is better for nonuniform networks",
            difference=higher(f"{NONUNIFORM} | {STAGE}", f"{UNIFORM} | {STAGE}"),
            source="ours",
        ),
        Claim(
            text="and is not worse for uniform ones by more than 0.5 points",
            difference=higher(f"{NONUNIFORM} | {ALL}", f"{UNIFORM} | {ALL}"),
            above=-0.5,
            source="ours",
        ),
    ],
    x="width, or the stage that is narrowed",
    against_macs=True,
    average=False,
)
