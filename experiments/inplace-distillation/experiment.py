"""Targets of narrow widths: the soft outputs of the widest, the labels, or both."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from anywidth.reproduce import NARROWEST, WIDEST, Claim, Context, Curve, Experiment, higher


def train(context: Context, *, arm: str, temperature: float | None = 1.0, labels: float = 0.0) -> Mapping[str, Curve]:
    """A supernet trained with one kind of distillation, at all widths."""
    if temperature == 1.0 and not labels:
        return {arm: context.spectrum(context.us_net())}
    soft: Any = None if temperature is None else context.soft(temperature)
    net = context.train(context.supernet(), "supernet", distillation=soft, label_loss_weight=labels)
    return {arm: context.spectrum(net)}


SOFT, LABELS, BOTH, WARM = "soft targets", "labels", "soft targets and labels", "soft targets at temperature 2"

EXPERIMENT = Experiment(
    title="In-place distillation: what the narrower widths learn from",
    paper="US-Nets (arXiv 1903.05134)",
    cells={
        "soft": partial(train, arm=SOFT),
        "labels": partial(train, arm=LABELS, temperature=None),
        "both": partial(train, arm=BOTH, labels=1.0),
        "temperature": partial(train, arm=WARM, temperature=2.0),
    },
    claims=[
        Claim(text="soft targets are better than labels, mean of all widths", difference=higher(SOFT, LABELS)),
        Claim(text="the same at the narrowest width", difference=higher(SOFT, LABELS, NARROWEST)),
        Claim(
            text="the widest does not lose more than 0.5 points by it",
            difference=higher(SOFT, LABELS, WIDEST),
            above=-0.5,
        ),
        Claim(text="adding labels makes it worse, mean of all widths", difference=higher(SOFT, BOTH)),
        Claim(text="temperature 2 is better than 1, mean of all widths", difference=higher(WARM, SOFT), source="ours"),
    ],
    columns=(0.25, 0.5, 0.75, 1.0),
)
