"""The widths of a training step: the ends of the range, and the number of widths."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from anywidth.reproduce import NARROWEST, WIDEST, Claim, Context, Curve, Experiment, higher
from anywidth.widths import Ends


def train(context: Context, *, arm: str, ends: Ends = "both", samples: int = 4) -> Mapping[str, Curve]:
    """A supernet trained with some ends of the range and random widths, at all widths."""
    if ends == "both" and samples == context.setup.widths_per_step:
        return {arm: context.spectrum(context.us_net())}
    net = context.train(context.supernet(), "supernet", always_include=ends, widths_per_step=samples)
    return {arm: context.spectrum(net)}


BOTH, WIDE, NARROW, NONE = "both ends, 2 random", "widest, 3 random", "narrowest, 3 random", "4 random"
ENDS: dict[str, Ends] = {BOTH: "both", WIDE: "widest", NARROW: "narrowest", NONE: "none"}
NUMBERS = {"both ends alone": 2, "both ends, 1 random": 3, "both ends, 4 random": 6}

EXPERIMENT = Experiment(
    title="The sandwich rule: which ends of the range, and how many widths",
    paper="US-Nets (arXiv 1903.05134)",
    cells={
        **{arm: partial(train, arm=arm, ends=ends) for arm, ends in ENDS.items()},
        **{arm: partial(train, arm=arm, samples=number) for arm, number in NUMBERS.items()},
    },
    claims=[
        Claim(text="both ends are better than 4 random widths, mean of all widths", difference=higher(BOTH, NONE)),
        Claim(text="with the widest only, the narrowest width loses", difference=higher(BOTH, WIDE, NARROWEST)),
        Claim(text="with the narrowest only, the widest loses", difference=higher(BOTH, NARROW, WIDEST)),
        Claim(text="the narrowest matters more than the widest, mean of all widths", difference=higher(NARROW, WIDE)),
        Claim(text="2 random widths are better than none", difference=higher(BOTH, "both ends alone")),
        Claim(
            text="4 random widths are at most 0.5 points better than 2",
            difference=higher(BOTH, "both ends, 4 random"),
            above=-0.5,
        ),
    ],
    columns=(0.25, 0.5, 0.75, 1.0),
)
