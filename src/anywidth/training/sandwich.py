"""One training step of the sandwich rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.errors import TrainingError, WidthError
from anywidth.groups.trace import normalise_inputs
from anywidth.supernet import Supernet
from anywidth.training.distillation import logits_of, soft_cross_entropy
from anywidth.widths import Width, WidthConfig, WidthSampler

__all__ = ["SandwichResult", "sandwich_step"]

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, kw_only=True)
class SandwichResult:
    """What one step saw.

    Attributes:
        configs: The trained configs in their order, the widest first; two random widths may round to the same.
        losses: Their detached losses, shape (len(configs),).
        output: The detached output of the first config.
    """

    configs: tuple[WidthConfig, ...]
    losses: Tensor
    output: Any


def sandwich_step(
    net: Supernet,
    inputs: Any,
    targets: Any,
    *,
    loss: Loss = F.cross_entropy,
    widths: int | Sequence[Width] = 4,
    sampler: WidthSampler | None = None,
    distillation: Loss | None = soft_cross_entropy,
    scale: float = 1.0,
    backward: Callable[[Tensor], object] = Tensor.backward,
    logits: Callable[[Any], Tensor] = logits_of,
    check_finite: bool = True,
) -> SandwichResult:
    """Add the gradients of one sandwich step to `.grad` of the supernet's parameters; you step the optimizer.

    The widest is trained on the labels. With in-place distillation every other width learns from the widest's
    detached logits, and from nothing else; its dropout is off. Gradients are summed over the widths.

    Args:
        net: The supernet.
        inputs: One batch: a tensor, a tuple of arguments or a dict of keyword arguments.
        targets: What `loss` compares the outputs with.
        loss: `loss(output, targets)`, a scalar.
        widths: How many widths to train (the widest, the narrowest and random ones in between), or exactly these.
        sampler: Where random widths come from; by default one that belongs to the supernet, seeded with 0.
        distillation: `distillation(student_logits, teacher_logits)`, a scalar; None trains all widths on the labels.
        scale: Multiplies every loss, such as 1 / steps for gradient accumulation.
        backward: How to run backward on a scaled loss, such as `lambda l: scaler.scale(l).backward()`.
        logits: Finds the logits in what the model returns.
        check_finite: Raise on a NaN or infinite loss (one synchronisation per step on a GPU).

    Raises:
        TrainingError: a loss is not finite; the optimizer has not been stepped.
        WidthError: a width does not fit.

    Source: US-Nets (arXiv 1903.05134), algorithm 1.

    >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> net = Supernet(model, torch.randn(1, 4))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> result = sandwich_step(net, torch.randn(8, 4), torch.randint(3, (8,)), widths=3)
    >>> optimizer.step()
    >>> len(result.losses)
    3
    """
    configs = _configs(net, widths, sampler)
    call = normalise_inputs(inputs)
    losses: list[Tensor] = []
    teacher: Tensor | None = None
    first: Any = None
    for number, config in enumerate(configs):
        subnet = net.subnet(config)
        if subnet is not net.model:
            follow_mode(net.model, subnet, dropout=number == 0 or distillation is None)
        output = call.call(subnet)
        if number == 0 or distillation is None or teacher is None:
            value = loss(output, targets)
        else:
            value = distillation(logits(output), teacher)
        backward(value if scale == 1.0 else value * scale)
        losses.append(value.detach())
        if number == 0:
            first = _detach(output)
            teacher = logits(first) if distillation is not None else None
    result = SandwichResult(configs=tuple(configs), losses=torch.stack(losses), output=first)
    if check_finite and not math.isfinite(float(result.losses.sum())):
        pairs = zip(result.configs, result.losses.tolist(), strict=True)
        bad = [net.label(config) for config, value in pairs if not math.isfinite(value)]
        raise TrainingError(
            f"the loss is not finite at width {', '.join(bad)}; the weights have not been updated. "
            "Lower the learning rate, clip gradients, or check the data for NaN"
        )
    return result


def follow_mode(model: nn.Module, subnet: nn.Module, *, dropout: bool) -> None:
    """Give a subnet the train/eval flags of its supernet; without `dropout`, its dropout layers rest."""
    for ours, theirs in zip(model.modules(), subnet.modules(), strict=True):
        resting = not dropout and (
            isinstance(theirs, nn.modules.dropout._DropoutNd)
            or type(theirs).__name__ in ("DropPath", "StochasticDepth")
        )
        theirs.training = ours.training and not resting


def _configs(net: Supernet, widths: int | Sequence[Width], sampler: WidthSampler | None) -> list[WidthConfig]:
    if isinstance(widths, int) and not isinstance(widths, bool):
        if widths < 2:
            raise WidthError(f"the sandwich rule needs at least 2 widths (widest and narrowest), not {widths}")
        sampler = sampler or net.sampler
        return [net.config(width) for width in sampler.sandwich(widths)]
    if not isinstance(widths, Sequence) or not widths:
        raise WidthError(f"widths must be a number of widths or a list of them, not {widths!r}")
    return [net.config(width) for width in widths]


def _detach(output: Any) -> Any:
    return pytree.tree_map_only(Tensor, Tensor.detach, output)
