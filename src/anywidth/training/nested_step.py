"""One training step of a nested network: every width from one pass."""

from __future__ import annotations

from typing import Any, Unpack

import torch

from anywidth.core.inputs import normalise_inputs
from anywidth.core.processes import several_processes
from anywidth.core.unsynchronised import note_gradients
from anywidth.supernet import Supernet, follow_mode
from anywidth.supernet.watch import several_widths
from anywidth.tasks import detached
from anywidth.training.memory_format import check_memory_format
from anywidth.training.step import SandwichResult, check_losses, check_wrapping, looks_at, settled
from anywidth.training.step_losses import StepLosses, StepOptions

__all__ = ["nested_step"]


@settled
def nested_step(
    net: Supernet,
    inputs: Any,
    targets: Any,
    *,
    check_finite: bool = True,
    **options: Unpack[StepOptions],
) -> SandwichResult:
    """Add the gradients of one step of a nested network to `.grad` of its parameters; you step the optimizer.

    The full network runs once. What its body returned contains the same of every narrower width as the first channels,
    on which the tail of each width, such as the classifier, is run. All losses go through one backward pass. The widest
    learns from the labels, the others from the widest, as in `sandwich_step`.

    Args:
        net: A supernet with `nested=`.
        inputs: One batch: a tensor, a tuple of arguments or a dict of keyword arguments.
        targets: Targets of the loss.
        check_finite: Raise on a NaN or infinite loss (one synchronization per step on a GPU).
        options: Options as in `StepOptions`, such as `loss` and `distillation`; with `distillation=None`, all widths
            learn from the labels.

    Returns:
        The configs, the widest first, with their losses, and the output of the widest.

    Raises:
        WidthError: the network is not nested.
        LossError: what narrower widths learn does not follow from the loss; no gradient was added.
        NotFiniteError: a loss is not finite; the optimizer has not been stepped.
        TrainingError: channels-last images or weights on a CPU would give wrong gradients; no gradient was added. Or a
            hook steps an optimizer inside the backward pass.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> net = Supernet(model, torch.randn(1, 4), nested=(0.25, 0.5, 1.0))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> result = nested_step(net, torch.randn(8, 4), torch.randint(3, (8,)))
    >>> optimizer.step()
    >>> len(result.losses)
    3
    """
    shells = net.shells
    together = several_processes()
    check_wrapping(net, together=together)
    shells.check()
    step = StepLosses(**options)
    objective = step.objective
    objective.require_distillation()
    call = normalise_inputs(inputs)
    configs = tuple(reversed(shells.widths))
    check_memory_format(net, call, configs[:1])  # convolutions run at full width
    counts = net.own_buffers.counts()
    with shells.recorded(net.model) as recording:
        output = call.call(net.model)
    objective.check(output, targets, values=looks_at(net.model, targets), teacher=None)
    losses = [objective.value(output, targets)]
    soft = objective.teach(detached(output)) if objective.distills else None
    for config in configs[1:]:
        subnet = net.subnet(config)
        follow_mode(net.model, subnet, dropout=not objective.distills)
        with shells.replayed(subnet, recording, config), net.own_buffers.repeated(subnet, counts):
            narrow = call.call(subnet)
        losses.append(step.of(narrow, targets, soft, learns=objective.distills))
    factors = [step.factor(config) for config in configs]
    with several_widths(net.model, "nested_step"):
        step.backward(torch.stack([value * factor for value, factor in zip(losses, factors, strict=True)]).sum())
    shells.zero_gradients_()
    if together:
        note_gradients(net.model)
    result = SandwichResult(configs=configs, losses=torch.stack(losses).detach(), output=detached(output))
    if check_finite:
        check_losses(result)
    return result
