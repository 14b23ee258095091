"""Whether an ordinary network is slimmable when its batch norms are recalibrated."""

from __future__ import annotations

from collections.abc import Mapping

from anywidth.batchnorm import share_statistics
from anywidth.reproduce import NARROWEST, WIDEST, Claim, Context, Curve, Experiment, higher
from anywidth.supernet import Supernet

OWN, AGAIN, ORDERED, US = (
    "ordinary network", "ordinary, recalibrated", "ordinary, important channels first, recalibrated", "US-Net",
)  # fmt: skip


def ordinary(context: Context) -> Mapping[str, Curve]:
    """A network trained at full width only, then narrowed."""
    net = context.supernet()
    context.train_plain(net.model, "ordinary")
    widths = context.widths(net)
    share_statistics(net, [width for width in widths if width < 1])
    curves = {OWN: context.score(net, widths), AGAIN: context.spectrum(net)}
    ordered = Supernet(
        net.model, net.inputs.args[0].to(context.device), order="l1",
        divisor=net.divisor, min_width=net.min_width, frozen=net.frozen,
    )  # fmt: skip
    return {**curves, ORDERED: context.spectrum(ordered)}


def us_net(context: Context) -> Mapping[str, Curve]:
    """The same network trained by the sandwich rule."""
    return {US: context.spectrum(context.us_net())}


EXPERIMENT = Experiment(
    title="Are ordinary networks slimmable by themselves? Narrowed after training, against a US-Net",
    paper="US-Nets (arXiv 1903.05134)",
    cells={"ordinary": ordinary, "us-net": us_net},
    claims=[
        Claim(
            text="recalibrated, an ordinary network is more than 10 points worse",
            difference=higher(US, AGAIN),
            above=10,
        ),
        Claim(
            text="at the narrowest width it is more than 30 points worse",
            difference=higher(US, AGAIN, NARROWEST),
            above=30,
        ),
        Claim(text="recalibration helps it", difference=higher(AGAIN, OWN)),
        Claim(text="putting the important channels first helps it", difference=higher(ORDERED, AGAIN), source="ours"),
        Claim(
            text="being slimmable costs at most 1 point at the full width",
            difference=higher(US, AGAIN, WIDEST),
            above=-1,
        ),
    ],
    columns=(0.25, 0.5, 0.75, 1.0),
)
