"""The distance of a narrow network's features from the full network's, layer by layer."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anywidth.batchnorm import calibrate
from anywidth.evaluation import width_grid
from anywidth.reproduce import Claim, Context, Curve, Difference, Experiment, Point, Results, higher
from anywidth.supernet import Supernet, norm_modules

US, ORDINARY = "US-Net", "ordinary network, recalibrated"
MEAN = "mean of all layers"


def us_net(context: Context) -> Mapping[str, Curve]:
    """A network trained by the sandwich rule."""
    return _errors(context, context.us_net(), US)


def ordinary(context: Context) -> Mapping[str, Curve]:
    """The same network trained at full width only."""
    net = context.supernet()
    context.train_plain(net.model, "ordinary")
    return _errors(context, net, ORDINARY)


@torch.no_grad()
def _errors(context: Context, net: Supernet, panel: str) -> Mapping[str, Curve]:
    """|y_n - y_k| / |y_n| of the normalized features of test images, over the channels of the narrowest network."""
    widths = width_grid(net.min_width, 7)
    calibrate(net, context.loaders().calibration, widths)
    images, _ = next(iter(context.loaders().test))
    features = {width: _features(net.subnet(width), images.to(context.device)) for width in widths}
    layers = {name: [_error(net, features, name, width) for width in widths] for name in features[1.0]}
    narrowed = {name: errors for name, errors in layers.items() if errors[0] > 0}  # the stem reads the whole image
    mean = [statistics.fmean(errors) for errors in zip(*narrowed.values(), strict=True)]
    return {
        f"{panel} | {name}": [Point(x=width, y=error) for width, error in zip(widths, errors, strict=True)]
        for name, errors in {MEAN: mean, **narrowed}.items()
    }


def _error(net: Supernet, features: Mapping[float, Mapping[str, Tensor]], name: str, width: float) -> float:
    full, narrow = (features[w][name][:, _positions(net, name, w)] for w in (1.0, width))
    return float((full - narrow).norm() / full.norm())


def _features(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The outputs of every batch norm, by its name."""
    found: dict[str, Tensor] = {}
    handles = [
        norm.register_forward_hook(lambda _m, _i, output, name=name: found.update({name: output}))
        for name, norm in norm_modules(network).items()
    ]
    training = network.training
    try:
        network.eval()(images)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return found


def _positions(net: Supernet, norm: str, width: float) -> Any:
    """The positions of the narrowest network's channels among those of a width."""
    here, narrowest = (_kept(net, norm, w) for w in (width, net.min_width))
    return torch.from_numpy(np.searchsorted(here, narrowest))


def _kept(net: Supernet, norm: str, width: float) -> Any:
    analysis, name = net.analysis, net.analysis.names[f"{norm}.weight"]
    (kept,) = analysis.kept(name, analysis.blocks(net.config(width)))
    return (
        np.arange(analysis.shapes[name][0] if kept is None else kept) if kept is None or isinstance(kept, int) else kept
    )


def _bounded(results: Results) -> Difference:
    """How much the error of the narrowest exceeds the largest of any wider network."""
    arm = f"{US} | {MEAN}"
    rows = [results.values(arm, x) for x in results.xs(arm)]
    return Difference.of([first - max(others) for first, *others in zip(*rows, strict=True)])


def _falls(results: Results) -> Difference:
    """The share of steps to the next wider network, over all layers, in which the error falls."""
    shares = []
    for number in range(len(results.seeds)):
        down = []
        for arm in results.arms:
            if arm.startswith(f"{US} | ") and not arm.endswith(MEAN):
                errors = [results.values(arm, x)[number] for x in results.xs(arm)]
                down += [wide < narrow for narrow, wide in itertools.pairwise(errors)]
        shares.append(statistics.fmean(down))
    return Difference.of(shares)


EXPERIMENT = Experiment(
    title="The error of narrow features, relative to the full network's",
    paper="US-Nets (arXiv 1903.05134)",
    cells={"us-net": us_net, "ordinary": ordinary},
    claims=[
        Claim(text="the error of the narrowest bounds that of all wider ones", difference=_bounded),
        Claim(
            text="with every step to a wider network it falls, in more than 90% of steps and layers",
            difference=_falls,
            above=0.9,
        ),
        Claim(
            text="training makes it smaller: that of an ordinary network is larger",
            difference=higher(f"{ORDINARY} | {MEAN}", f"{US} | {MEAN}"),
        ),
    ],
    y="relative error of features",
    digits=2,
    highlight=MEAN,
)
