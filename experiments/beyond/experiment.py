"""Successors of US-Nets, each change alone, against plain US-Nets at equal training cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anywidth.batchnorm import calibrate
from anywidth.cost import macs
from anywidth.reproduce import Claim, Context, Curve, Experiment, Point, higher
from anywidth.supernet import Supernet
from anywidth.widths import WidthConfig, WidthSampler

PLAIN = "US-Net"
OWN = "classifier of its own per width"


class MoreNarrow(WidthSampler):
    """Random widths whose logarithm is uniform, so that narrow ones are more frequent."""

    def uniform(self) -> float:
        """One width."""
        return math.exp(self._random.uniform(math.log(self.min_width), 0.0))


def plain(context: Context) -> Mapping[str, Curve]:
    """A US-Net, and the same with a classifier per width fitted on the features of the training images."""
    net = context.us_net()
    return {PLAIN: context.spectrum(net), OWN: [_refitted(context, net, width) for width in context.widths(net)]}


def changed(context: Context, *, arm: str, **options: Any) -> Mapping[str, Curve]:
    """A US-Net with a changed training step."""
    return {arm: context.spectrum(context.train(context.supernet(), "supernet", **options))}


def more_narrow(context: Context, *, arm: str) -> Mapping[str, Curve]:
    """A US-Net that trains narrow widths more often."""
    net = context.supernet()
    sampler = MoreNarrow(net.min_width, seed=context.seed)
    return {arm: context.spectrum(context.train(net, "supernet", sampler=sampler))}


def smaller_steps(context: Context, *, arm: str) -> Mapping[str, Curve]:
    """A US-Net whose narrow widths count half."""
    net = context.supernet()
    full = net.config(1.0)

    def scale(config: WidthConfig) -> float:
        return 1.0 if config == full else 0.5

    return {arm: context.spectrum(context.train(net, "supernet", scale=scale))}


def averaged_teacher(context: Context, *, arm: str) -> Mapping[str, Curve]:
    """A US-Net whose narrow widths learn from the average of the widest's weights over training.

    The average needs another forward pass over every batch, so this trains for proportionally fewer epochs.
    """
    net = context.supernet()
    net.model.to(context.device)
    average = AveragedModel(net.model, multi_avg_fn=get_ema_multi_avg_fn(0.99), use_buffers=True)

    def teach(inputs: Tensor) -> Tensor:
        average.update_parameters(net.model)
        return average.train(net.model.training)(inputs)

    step = 3 * sum(macs(net, width) for width in (net.min_width, (1 + net.min_width) / 2, (1 + net.min_width) / 2, 1.0))
    epochs = max(1, round(context.setup.epochs * step / (step + macs(net))))
    return {arm: context.spectrum(context.train(net, "supernet", teacher=teach, epochs=epochs))}


@torch.no_grad()
def _refitted(context: Context, net: Supernet, width: float) -> Point:
    """The accuracy of a width whose last linear layer is fitted again, by logistic regression."""
    calibrate(net, context.loaders().calibration, [width])
    network = net.extract(width).eval()
    (last,) = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    features: list[Tensor] = []
    handle = last.register_forward_hook(lambda _m, inputs, _o: features.append(inputs[0].cpu()))
    parts = {}
    for part in ("calibration", "test"):
        features.clear()
        labels = [
            (network(images.to(context.device)), targets)[1] for images, targets in getattr(context.loaders(), part)
        ]
        parts[part] = torch.cat(features).numpy(), torch.cat(labels).numpy()
    handle.remove()
    classifier = LogisticRegression(C=1.0, max_iter=500).fit(*parts["calibration"])
    return Point(x=round(width, 6), y=100 * float(classifier.score(*parts["test"])), macs=macs(net, width))


def alpha_divergence(
    student: Tensor, teacher: Tensor, *, alphas: tuple[float, ...] = (-1.0, 1.0), clip: float = 5.0
) -> Tensor:
    """The mean over samples of the largest of several alpha-divergences, a scalar; replaces `soft_cross_entropy`.

    Alpha 1 is the KL divergence, which penalizes a student for low probabilities where its teacher's are high; alpha -1
    penalizes the opposite. Gradients treat the clipped ratio of teacher to student as constant.

    Args:
        student: Logits of shape (batch, classes, ...).
        teacher: Logits of the same shape; no gradient flows into them.
        alphas: Orders of the divergence, not 0.
        clip: The largest ratio of probabilities; the smallest is 1 / clip.

    Source: AlphaNet (arXiv 2102.07954).
    """
    q, p = F.softmax(student, dim=1), F.softmax(teacher.detach(), dim=1)
    ratio = (p / q.detach().clamp_min(1e-12)).clamp(1 / clip, clip)
    values, surrogates = [], []
    for alpha in alphas:
        power = ratio**alpha
        if alpha == 1.0:
            value = (q.detach() * ratio * ratio.log()).sum(1)
        else:
            value = (q.detach() * (power - 1)).sum(1) / (alpha * (alpha - 1))
        values.append(value)
        # D = sum q f(p / q) has the gradient sum q' (f(t) - t f'(t)), which is -t^alpha / alpha but for a constant.
        surrogates.append(-(q * power).sum(1) / alpha)
    stacked, chosen = torch.stack(surrogates), torch.stack(values).max(0)
    surrogate = stacked.gather(0, chosen.indices[None])[0]
    return (chosen.values + surrogate - surrogate.detach()).mean()


ARMS = {
    "alpha-divergence": partial(changed, distillation=alpha_divergence),
    "the next wider teaches": partial(changed, teacher="wider"),
    "average of the weights teaches": averaged_teacher,
    "labels smoothed for the widest only": partial(changed, loss=partial(F.cross_entropy, label_smoothing=0.1)),
    "narrow widths count half": smaller_steps,
    "narrow widths more often": more_narrow,
}

EXPERIMENT = Experiment(
    title="Beyond US-Nets: one change each, at equal training cost",
    paper="AlphaNet, DS-Net, Scala, BigNAS, US3L and PSS-Net, each in our own small form",
    cells={"plain": plain, **{arm: partial(cell, arm=arm) for arm, cell in ARMS.items()}},
    claims=[
        Claim(
            text=f"{arm}: better than a plain US-Net, mean of all widths", difference=higher(arm, PLAIN), source="ours"
        )
        for arm in (*ARMS, OWN)
    ],
    columns=(0.25, 0.5, 0.75, 1.0),
    digits=2,
)
