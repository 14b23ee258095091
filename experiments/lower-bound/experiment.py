"""The cost of a wider range: the narrowest width in training, k0."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from anywidth.reproduce import WIDEST, Claim, Context, Curve, Experiment, higher

BOUNDS = (0.125, 0.25, 0.5, 0.75)


def train(context: Context, *, bound: float) -> Mapping[str, Curve]:
    """A supernet trained down to a bound, at multiples of 1/8 from there."""
    net = context.train(context.supernet(min_width=bound), "supernet")
    return {_arm(bound): context.spectrum(net, [i / 8 for i in range(1, 9) if i / 8 >= bound])}


def _arm(bound: float) -> str:
    return f"k0 = {bound:g}"


EXPERIMENT = Experiment(
    title="The lower bound of the widths: what a wider range costs",
    paper="US-Nets (arXiv 1903.05134)",
    cells={_arm(bound): partial(train, bound=bound) for bound in BOUNDS},
    claims=[
        Claim(
            text="a smaller k0 costs a little at width 1: 0.25 against 0.75",
            difference=higher(_arm(0.75), _arm(0.25), WIDEST),
        ),
        Claim(text="but less than 1 point", difference=higher(_arm(0.25), _arm(0.75), WIDEST), above=-1),
        Claim(text="at 0.75 it costs less than 1 point", difference=higher(_arm(0.25), _arm(0.75), 0.75), above=-1),
        Claim(
            text="k0 = 0.125 costs less than 1 point from 0.25 on, against 0.25",
            difference=higher(_arm(0.125), _arm(0.25), (0.25, 0.5, 0.75, 1.0)),
            above=-1,
            source="ours",
        ),
    ],
    average=False,
)
