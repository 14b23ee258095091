"""One training step of the sandwich rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn

from anywidth.core.errors import WidthError
from anywidth.core.inputs import Inputs, normalise_inputs
from anywidth.core.processes import several_processes
from anywidth.core.unsynchronised import note_gradients
from anywidth.supernet import Supernet, record_autocast
from anywidth.supernet.watch import several_widths
from anywidth.tasks import detached
from anywidth.training.execution import DIRECT, Execution
from anywidth.training.memory_format import check_memory_format
from anywidth.training.passes import prepared
from anywidth.training.quiet_dropout import QuietDropout
from anywidth.training.step import SandwichResult, check_losses, check_wrapping, looks_at, settled
from anywidth.training.step_losses import StepLosses, StepOptions
from anywidth.widths import Width

__all__ = ["Teacher", "sandwich_step"]

Teacher = Literal["widest", "wider"] | Callable[..., Any]
"""The network that narrower widths learn from, or a function of the inputs."""


@settled
def sandwich_step(
    net: Supernet,
    inputs: Any,
    targets: Any,
    *,
    widths: int | Sequence[Width] | None = None,
    teacher: Teacher = "widest",
    execution: Execution = DIRECT,
    **options: Unpack[StepOptions],
) -> SandwichResult:
    """Add the gradients of one sandwich step to `.grad` of the supernet's parameters; you step the optimizer.

    The widest is trained on the labels. With in-place distillation, every other width learns only from the widest's
    detached logits, without dropout. Gradients are summed over the widths.

    Args:
        net: The supernet.
        inputs: One batch: a tensor, a tuple of arguments or a dict of keyword arguments.
        targets: Targets of the loss.
        widths: Number of widths to train (the widest, the narrowest and random ones in between, which `net.sampler`
            draws), or a list of widths, of which the widest learns from the labels, in any order. By default 4, or all
            fixed widths of a network with switches or nested widths.
        teacher: The teacher of the narrower widths: the widest; `wider`, the next wider of the step's widths; or a
            function of the inputs that returns logits, such as an average of the weights over training.
        execution: How the passes run, such as with CUDA graphs or compiled.
        options: Options as in `StepOptions`, such as `loss` and `distillation`.

    Raises:
        LossError: the loss does not determine what narrower widths learn, or does not fit the output or the targets
            (whose values are checked on a CPU, on a GPU in the first step only); no gradient was added.
        NotFiniteError: a loss is not finite; the optimizer has not been stepped.
        TrainingError: channels-last images or weights on a CPU would give wrong gradients; no gradient was added. Or a
            hook steps an optimizer inside a backward pass.
        WidthError: a width does not fit the supernet.

    Source: US-Nets (arXiv 1903.05134), algorithm 1; with switches and without distillation, Slimmable Networks
    (arXiv 1812.08928), algorithm 1.

    >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> net = Supernet(model, torch.randn(1, 4))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> result = sandwich_step(net, torch.randn(8, 4), torch.randint(3, (8,)), widths=3)
    >>> optimizer.step()
    >>> len(result.losses)
    3
    """
    step = StepLosses(**options)
    together = several_processes()
    check_wrapping(net, together=together)
    chosen = _widest_first(net, _widths(net, widths), descending=teacher == "wider")
    configs = tuple(net.config(width) for width in chosen)
    objective = step.objective
    if len(chosen) > 1:
        objective.require_distillation()
    call = normalise_inputs(inputs)
    check_memory_format(net, call, configs, compiled=execution.wrap is not None)
    losses: list[Tensor] = []
    soft: Any = None
    first: Any = None
    counts = net.own_buffers.counts()
    if callable(teacher) and objective.distills:
        with torch.no_grad():
            soft = objective.teach(call.call(teacher))
    for number, width in enumerate(chosen):
        subnet = net.subnet(width)
        learns = number > 0 and objective.distills
        factor = step.factor(configs[number])

        def forward_backward(
            inputs: Inputs, targets: Any, soft: Any, subnet: nn.Module = subnet, number: int = number,
            learns: bool = learns, factor: float = factor,
        ) -> tuple[Tensor, Any]:  # fmt: skip
            recording = record_autocast(net, subnet) if execution.wrap is None else nullcontext()
            quiet = QuietDropout() if learns and net.effects.drops else nullcontext()
            counted = net.own_buffers.repeated(subnet, counts if number else {})
            with prepared(net, subnet, configs[number], first=number == 0, dropout=not learns), counted, quiet:
                with recording:
                    output = inputs.call(subnet if execution.wrap is None else execution.wrap(subnet))
                if number == 0:
                    objective.check(output, targets, values=looks_at(net.model, targets), teacher=soft)
                value = step.of(output, targets, soft, learns=learns)
                with several_widths(net.model, "sandwich_step") if len(chosen) > 1 else nullcontext():
                    step.backward(value if factor == 1.0 else value * factor)
            torch.clear_autocast_cache()  # otherwise copies of all weights of all widths would pile up
            return value.detach(), detached(output)

        key = (configs[number], number == 0, learns, factor, step.label_loss_weight)
        value, output = execution.runner(key, forward_backward, call, targets, soft)
        losses.append(value)
        if number == 0:
            first = output
        teaches = teacher == "wider" or (teacher == "widest" and number == 0)
        if teaches and objective.distills and number + 1 < len(chosen):
            soft = objective.teach(output)
    if net.nested:
        net.shells.zero_gradients_()
    if together:
        note_gradients(net.model)
    result = SandwichResult(configs=configs, losses=torch.stack(losses), output=first)
    if execution.check_finite:
        check_losses(result)
    return result


def _widths(net: Supernet, widths: int | Sequence[Width] | None) -> list[Width]:
    if net.widths and isinstance(widths, int):
        kind = "with switches" if net.switches else "that is nested"
        raise WidthError(f"a network {kind} has no random widths; list some of {net.widths}, or leave it out")
    if widths is None:
        widths = net.widths or 4
    if isinstance(widths, int) and not isinstance(widths, bool):
        if widths < 2:
            raise WidthError(f"the sandwich rule needs at least 2 widths (widest and narrowest), not {widths}")
        return list(net.sampler.sandwich(widths))
    if not isinstance(widths, Sequence) or not widths:
        raise WidthError(f"widths must be a number of widths or a list of them, not {widths!r}")
    return list(widths)


def _widest_first(net: Supernet, widths: list[Width], *, descending: bool) -> list[Width]:
    """The widths with the widest, the teacher, first; or all of them sorted from wide to narrow."""

    def channels(number: int) -> int:
        return sum(net.config(widths[number]).values())

    if descending:
        return [widths[number] for number in sorted(range(len(widths)), key=channels, reverse=True)]
    widest = max(range(len(widths)), key=channels)
    return [widths[widest], *widths[:widest], *widths[widest + 1 :]]
