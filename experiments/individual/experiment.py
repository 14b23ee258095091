"""The main claim: one network at all widths against networks trained alone at each width."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from anywidth.evaluation import width_grid
from anywidth.reproduce import Claim, Context, Curve, Difference, Experiment, Results, higher

US, S, ALONE = "US-Net", "S-Net, 4 switches", "trained alone"


def us_net(context: Context) -> Mapping[str, Curve]:
    """A universally slimmable network at all widths."""
    return {US: context.spectrum(context.us_net())}


def s_net(context: Context) -> Mapping[str, Curve]:
    """A slimmable network with four switches, on the labels as in its paper."""
    net = context.supernet(switches=width_grid(context.structure.min_width, 4))
    return {S: context.spectrum(context.train(net, "supernet", distillation=None))}


def alone(context: Context) -> Mapping[str, Curve]:
    """Four networks, each trained at one width with new weights."""
    widths = width_grid(context.structure.min_width, 4)
    return {ALONE: [point for width in widths for point in context.alone(width)]}


def worst_width(results: Results, *, arm: str) -> Difference:
    """The smallest advantage over the networks trained alone among the four widths."""
    pairs = [zip(results.values(arm, x), results.values(ALONE, x), strict=True) for x in results.xs(ALONE)]
    return Difference.of([min(a - b for a, b in seed) for seed in zip(*pairs, strict=True)])


def mean_of_four(results: Results, *, arm: str) -> Difference:
    """The mean advantage over the networks trained alone."""
    return results.difference(arm, ALONE, list(results.xs(ALONE)))


EXPERIMENT = Experiment(
    title="One network at every width, against networks trained alone",
    paper="Slimmable Networks (arXiv 1812.08928); US-Nets (arXiv 1903.05134)",
    cells={"us-net": us_net, "s-net": s_net, "alone": alone},
    claims=[
        Claim(
            text="a US-Net is better than networks trained alone, mean of four widths",
            difference=partial(mean_of_four, arm=US),
        ),
        Claim(text="the same of an S-Net", difference=partial(mean_of_four, arm=S)),
        Claim(
            text="at the narrowest width, a US-Net is better than trained alone",
            difference=higher(US, ALONE, "narrowest"),
        ),
        Claim(text="at the full width it is better, too", difference=higher(US, ALONE, "widest")),
        Claim(
            text="at no width is a US-Net worse than trained alone by more than 0.5 points",
            difference=lambda results: worst_width(results, arm=US),
            above=-0.5,
            source="ours",
        ),
        Claim(text="a US-Net is better than an S-Net at the narrowest width", difference=higher(US, S, "narrowest")),
    ],
    columns=(0.25, 0.5, 0.75, 1.0),
    against_macs=True,
    average=False,
)
