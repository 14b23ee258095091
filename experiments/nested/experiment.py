"""Nested networks, which train every width in one pass, against a US-Net and networks trained alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from anywidth.reproduce import WIDEST, Claim, Context, Curve, Difference, Experiment, Results, higher

US, ALONE, NESTED = "US-Net", "trained alone", "nested"
LONGER = "nested, 1.25 times the channels, training time of the US-Net"
WIDTHS = (0.25, 0.5, 0.75, 1.0)
WIDER, EPOCHS = 1.25, 1.7
"""Channels of the wider nested network, and its epochs over those of the US-Net in the same time.

One nested step of it takes 1/1.71 of the time of a sandwich step of the US-Net (ResNet-8, 16x16 pixels, batch 128, one
core; median of 22 paired steps).
"""


def us_net(context: Context) -> Mapping[str, Curve]:
    """A universally slimmable network at all widths."""
    return {US: context.spectrum(context.us_net())}


def alone(context: Context) -> Mapping[str, Curve]:
    """Four networks, each trained at one width with new weights."""
    return {ALONE: [point for width in WIDTHS for point in context.alone(width)]}


def nested(context: Context) -> Mapping[str, Curve]:
    """A nested network with the channels and epochs of the US-Net."""
    return {NESTED: context.spectrum(context.nested_net(WIDTHS))}


def longer(context: Context) -> Mapping[str, Curve]:
    """A wider nested network, trained for as long as the US-Net."""
    epochs = round(EPOCHS * context.setup.epochs)
    return {LONGER: context.spectrum(context.nested_net(WIDTHS, width_mult=WIDER, epochs=epochs))}


def at_equal_macs(results: Results, *, arm: str, other: str) -> Difference:
    """The mean difference of an arm to the accuracy of another one at the same MACs.

    The other arm is interpolated over the logarithm of its MACs; outside of its range, its nearest network counts.
    """
    costs, others = (np.log([cost or 1 for cost in results.macs(each)]) for each in (arm, other))
    curves, known = (zip(*(results.values(each, x) for x in results.xs(each)), strict=True) for each in (arm, other))
    pairs = zip(curves, known, strict=True)
    return Difference.of([float(np.mean(np.array(curve) - np.interp(costs, others, seen))) for curve, seen in pairs])


EXPERIMENT = Experiment(
    title="Nested networks: every width from one pass, against a US-Net and networks trained alone",
    paper="US-Nets (arXiv 1903.05134); Any-Width Networks (arXiv 2012.03153)",
    cells={"us-net": us_net, "alone": alone, "nested": nested, "longer": longer},
    claims=[
        Claim(
            text="trained for as long as the US-Net, the wider nested network is more accurate, mean of four widths",
            difference=higher(LONGER, US, WIDTHS),
            source="ours",
        ),
        Claim(
            text="it is more accurate than the US-Net interpolated at its MACs, mean of its four widths",
            difference=partial(at_equal_macs, arm=LONGER, other=US),
            source="ours",
        ),
        Claim(
            text="it is more accurate than the US-Net at the full width",
            difference=higher(LONGER, US, WIDEST),
            source="ours",
        ),
        Claim(
            text="it is more accurate than networks trained alone, interpolated at its MACs, mean of its four widths",
            difference=partial(at_equal_macs, arm=LONGER, other=ALONE),
            source="ours",
        ),
        Claim(
            text="with the channels and epochs of the US-Net, a nested network is at most 2 points worse, mean of four "
            "widths",
            difference=higher(NESTED, US, WIDTHS),
            above=-2,
            source="ours",
        ),
        Claim(
            text="a US-Net is more accurate than networks trained alone, mean of four widths",
            difference=higher(US, ALONE, WIDTHS),
        ),
    ],
    columns=WIDTHS,
    against_macs=True,
    average=False,
)
