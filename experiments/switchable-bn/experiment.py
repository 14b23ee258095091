"""One batch norm for four widths, or one for each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anywidth.batchnorm import share_statistics
from anywidth.evaluation import width_grid
from anywidth.reproduce import NARROWEST, WIDEST, Claim, Context, Curve, Experiment, higher
from anywidth.supernet import Supernet, norm_modules

PRIVATE, STATISTICS, SHARED, AGAIN = (
    "private batch norms", "private statistics, shared affine", "one batch norm", "one batch norm, recalibrated",
)  # fmt: skip


def switches(context: Context) -> list[float]:
    """The four widths."""
    return width_grid(context.structure.min_width, 4)


def private(context: Context, *, affine: bool, arm: str) -> Mapping[str, Curve]:
    """A slimmable network as in the paper: all switches on the labels in every step."""
    net = context.supernet(switches=switches(context), switch_affine=affine)
    return {arm: context.spectrum(context.train(net, "supernet", distillation=None))}


def shared(context: Context) -> Mapping[str, Curve]:
    """The same training with one running mean and variance, which all widths update and use in tests."""
    widths = switches(context)
    net = context.supernet()
    net.model.to(context.device)
    kept = [_share(net, width) for width in widths[:-1]]  # freed subnets would lose their hooks
    context.train(net, "supernet", widths=widths, distillation=None)
    del kept
    share_statistics(net, widths[:-1])
    return {SHARED: context.score(net, widths), AGAIN: context.spectrum(net, widths)}


def _share(net: Supernet, width: float) -> nn.Module:
    """Make the norms of a subnet update the leading part of the supernet's running statistics."""
    subnet = net.subnet(width)
    for name, norm in norm_modules(subnet).items():
        norm.register_forward_pre_hook(partial(_move, net.model.get_submodule(name)))
    return subnet


@torch.no_grad()
def _move(own: Any, norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
    if norm.training:
        variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3))
        own.running_mean[: len(mean)].lerp_(mean, own.momentum)
        own.running_var[: len(mean)].lerp_(variance, own.momentum)


EXPERIMENT = Experiment(
    title="Batch norm of a slimmable network: one for all widths, or one for each",
    paper="Slimmable Networks (arXiv 1812.08928)",
    cells={
        "private": partial(private, affine=True, arm=PRIVATE),
        "private statistics": partial(private, affine=False, arm=STATISTICS),
        "shared": shared,
    },
    claims=[
        Claim(
            text="one batch norm loses more than 10 points, mean of the widths",
            difference=higher(PRIVATE, SHARED),
            above=10,
        ),
        Claim(
            text="at the narrowest width it loses more than 10 points",
            difference=higher(PRIVATE, SHARED, NARROWEST),
            above=10,
        ),
        Claim(text="private batch norms beat private statistics alone", difference=higher(PRIVATE, STATISTICS)),
        Claim(
            text="it is the statistics: recalibrated, one batch norm loses at most 1 point, mean of the widths",
            difference=higher(AGAIN, PRIVATE),
            above=-1,
            source="ours",
        ),
        Claim(text="the same at the full width", difference=higher(AGAIN, PRIVATE, WIDEST), above=-1, source="ours"),
    ],
)
