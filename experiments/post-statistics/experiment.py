"""The number of images for the batch-norm statistics of a width, exact or as a moving average."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from functools import partial

from anywidth.batchnorm import calibrate, share_statistics
from anywidth.data import make_loaders
from anywidth.evaluation import width_grid
from anywidth.reproduce import Claim, Context, Curve, Difference, Experiment, Point, Results, higher

EXACT, MOVING = "exact mean", "moving average, momentum 0.1"
IMAGES = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def run(context: Context) -> Mapping[str, Curve]:
    """One supernet: the mean accuracy of three narrow widths by number of images, in batches of at most 64."""
    net = context.us_net()
    widths = width_grid(net.min_width, 4)[:-1]
    batches = _batches(context, max(IMAGES))
    curves: dict[str, list[Point]] = {EXACT: [], MOVING: []}
    for arm, momentum in ((EXACT, None), (MOVING, 0.1)):
        for images in IMAGES:
            if images:
                calibrate(net, batches, widths, images=images, momentum=momentum)
            else:
                share_statistics(net, widths)  # the naive method: the supernet's statistics
            curves[arm].append(Point(x=images, y=statistics.fmean(p.y for p in context.score(net, widths))))
    return curves


def _batches(context: Context, images: int) -> list[object]:
    """Training batches; a small dataset repeats with different augmentation."""
    passes = (
        make_loaders(context.bundle, batch_size=64, seed=context.seed + 1000 * i).calibration for i in itertools.count()
    )
    return list(itertools.islice(itertools.chain.from_iterable(passes), -(-images // 64) + 2))


def gain(results: Results, *, at: int, over: int) -> Difference:
    """The gain in accuracy of one number of images over another."""
    pairs = zip(results.values(EXACT, at), results.values(EXACT, over), strict=True)
    return Difference.of([a - b for a, b in pairs])


EXPERIMENT = Experiment(
    title="Batch-norm post-statistics: accuracy by the number of training images",
    paper="US-Nets (arXiv 1903.05134)",
    cells={"statistics": run},
    claims=[
        Claim(
            text="without them, accuracy is more than 10 points lower",
            difference=partial(gain, at=4096, over=0),
            above=10,
        ),
        Claim(
            text="1,024 images are as good as 4,096, within 0.3 points",
            difference=partial(gain, at=1024, over=4096),
            above=-0.3,
        ),
        Claim(text="exact beats the moving average with 64 images", difference=higher(EXACT, MOVING, 64)),
        Claim(text="exact beats the moving average with 1,024 images", difference=higher(EXACT, MOVING, 1024)),
    ],
    x="training images",
    y="top-1 accuracy (%), mean of 3 narrow widths",
    scale="log",
    average=False,
)
