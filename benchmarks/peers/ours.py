"""The arms of anywidth, and networks trained alone."""

from __future__ import annotations

from functools import partial

from torch import nn

import anywidth as aw
from anywidth.runs.widths import build_sampler
from peers.job import WIDTHS, Job, Share

__all__ = ["SHELLS", "WIDER", "alone", "nested", "us_net"]

WIDER = 1.25
"""Channels of the nested network, relative to the model's."""

SHELLS = (0.2, 0.45, 0.71, 1.0)
"""Widths of the wider nested network, with at most the MACs of the model at `WIDTHS`.

MACs relative to the budgets: 1.00, 0.97, 0.93, 0.99. The first shell has the channels of the model at width 0.25.
"""

CALIBRATION = 2048
"""Images for the batch-norm statistics of a width; one to two thousand suffice (US-Nets, section 3.4)."""


def nested(job: Job) -> list[nn.Module]:
    """A nested network with 1.25 times the channels; its networks skip the products with zeros."""
    model = job.plain(WIDER)
    net = aw.Supernet(model, job.example, divisor=1, nested=SHELLS)
    job.train("all widths", model, seconds=job.left(), step=partial(aw.nested_step, net))
    return [net.blocked(width, smallest=0) for width in SHELLS]


def us_net(job: Job) -> list[nn.Module]:
    """A universally slimmable network at the widths of the budgets."""
    net = job.context.supernet()
    net.sampler = build_sampler(net, job.context.settings)
    loader = job.context.loaders().calibration
    start = job.clock()
    aw.calibrate(net, loader, WIDTHS, images=CALIBRATION)  # measures how long it takes
    reserve = job.clock() - start
    step = partial(aw.sandwich_step, net, widths=job.context.setup.widths_per_step)
    job.train("all widths", net.model, seconds=job.left() - reserve, step=step)
    aw.calibrate(net, loader, WIDTHS, images=CALIBRATION)
    return [net.extract(width) for width in WIDTHS]


def alone(job: Job) -> list[nn.Module]:
    """Four networks, each trained on the labels from new weights, for the same number of epochs."""
    networks = [job.plain(width) for width in WIDTHS]
    job.train_in_turn(
        [Share(name=f"width {width:g}", model=model) for width, model in zip(WIDTHS, networks, strict=True)]
    )
    return networks
