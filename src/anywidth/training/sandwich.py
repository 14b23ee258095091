"""One training step of the sandwich rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from anywidth.core.errors import NotFiniteError, UncalibratedError, WidthError
from anywidth.core.inputs import Inputs, normalise_inputs
from anywidth.core.modules import model_device, module_modes
from anywidth.core.processes import several_processes
from anywidth.core.unsynchronised import note_gradients
from anywidth.groups.effects import is_dropout
from anywidth.groups.wrappers import check_unsharded, check_unwrapped
from anywidth.supernet import (
    Supernet,
    castable,
    contiguous,
    follow_mode,
    gradients_together,
    norm_modules,
    record_autocast,
)
from anywidth.supernet.own_buffers import kept_buffers, stubborn
from anywidth.supernet.watch import several_widths
from anywidth.tasks import Distillations, Logits, Loss, Task, detached, logits_of, objective_of
from anywidth.training.automatic_optimization import check_manual_optimization
from anywidth.training.execution import DIRECT, Execution
from anywidth.training.memory_format import check_memory_format
from anywidth.training.quiet_dropout import QuietDropout
from anywidth.widths import Width, WidthConfig

__all__ = ["SandwichResult", "Scale", "Teacher", "sandwich_step"]

P = ParamSpec("P")
R = TypeVar("R")
Teacher = Literal["widest", "wider"] | Callable[..., Any]
"""The network that narrower widths learn from, or a function of the inputs."""
Scale = float | Callable[[WidthConfig], float]
"""Factor of all losses, or of the loss of a config."""

_looked: WeakSet[nn.Module] = WeakSet()
"""Models on a GPU whose first targets were checked; checking those of every step would make it wait."""
_unwrapped: WeakSet[nn.Module] = WeakSet()
"""Unwrapped models that several processes train."""


@dataclass(frozen=True, kw_only=True)
class SandwichResult:
    """The result of one step.

    Attributes:
        configs: The trained configs, the widest first; two random widths may round to the same config.
        losses: Their detached losses, shape (len(configs),).
        output: The detached output of the first config.
    """

    configs: tuple[WidthConfig, ...]
    losses: Tensor
    output: Any


def settled(step: Callable[P, R]) -> Callable[P, R]:
    """Decorator that checks for changes of the model once per step instead of at every width."""

    @wraps(step)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        net: Any = args[0] if args else kwargs["net"]
        with net.settled():
            return step(*args, **kwargs)

    return once


@settled
def sandwich_step(
    net: Supernet,
    inputs: Any,
    targets: Any,
    *,
    loss: Loss | None = None,
    task: Task | None = None,
    logits: Logits = logits_of,
    distillation: Distillations | None = "auto",
    widths: int | Sequence[Width] | None = None,
    teacher: Teacher = "widest",
    label_loss_weight: float = 0.0,
    scale: Scale = 1.0,
    backward: Callable[[Tensor], object] = Tensor.backward,
    execution: Execution = DIRECT,
) -> SandwichResult:
    """Add the gradients of one sandwich step to `.grad` of the supernet's parameters; you step the optimizer.

    The widest is trained on the labels. With in-place distillation, every other width learns only from the widest's
    detached logits, without dropout. Gradients are summed over the widths.

    Common losses determine what narrower widths learn. With cross-entropy, it is the teacher's probabilities over the
    classes of that loss; with squared, absolute, Huber and smooth L1 errors, the same error against the teacher's
    outputs; with binary cross-entropy, the teacher's probabilities. Arguments of the loss such as weights, `reduction`
    and `ignore_index` also apply; only labels are smoothed. Any other loss needs `distillation` or `task`.

    Args:
        net: The supernet.
        inputs: One batch: a tensor, a tuple of arguments or a dict of keyword arguments.
        targets: Targets of `loss`.
        loss: `loss(output, targets)`, a scalar; by default cross-entropy. A loss of torch, torchvision or timm receives
            the logits that `logits` finds, any other function receives the model's output.
        task: Loss and distillation in one object, instead of `loss`, `distillation` and `logits`.
        logits: Finds the logits in the model's output, or a tuple or dict of several tensors, such as features; the
            loss receives `logits` or the first one.
        distillation: `distillation(student_logits, teacher_logits)`, a scalar; a third parameter named `target`
            receives the targets. By default the loss determines it. A loss of torch means that loss against the
            teacher. None trains all widths on the labels. If `logits` finds several tensors, give one function of all
            of them, or a tuple or dict of functions, `"auto"` or None, whose values are summed.
        widths: Number of widths to train (the widest, the narrowest and random ones in between, which `net.sampler`
            draws), or a list of widths, of which the widest learns from the labels, in any order. By default 4, or all
            fixed widths of a network with switches or nested widths.
        teacher: The teacher of the narrower widths: the widest; `wider`, the next wider of the step's widths; or a
            function of the inputs that returns logits, such as an average of the weights over training.
        label_loss_weight: Weight of the label loss that is added to the distillation loss of the narrower widths.
        scale: Factor of every loss, such as 1 / steps for gradient accumulation; or a function of the config that
            returns the factor, for example for smaller steps at narrow widths.
        backward: How to run backward on a scaled loss, such as `lambda l: scaler.scale(l).backward()`.
        execution: How the passes run, such as with CUDA graphs or compiled.

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
    together = several_processes()
    check_wrapping(net, together=together)
    chosen = _widest_first(net, _widths(net, widths), descending=teacher == "wider")
    configs = tuple(net.config(width) for width in chosen)
    objective = objective_of(loss, distillation=distillation, logits=logits, task=task)
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
        factor = scale(configs[number]) if callable(scale) else scale

        def forward_backward(
            inputs: Inputs, targets: Any, soft: Any, subnet: nn.Module = subnet, number: int = number,
            learns: bool = learns, factor: float = factor,
        ) -> tuple[Tensor, Any]:  # fmt: skip
            recording = record_autocast(net, subnet) if execution.wrap is None else nullcontext()
            quiet = QuietDropout() if learns and net.effects.drops else nullcontext()
            counted = net.own_buffers.repeated(subnet, counts if number else {})
            with _prepared(net, subnet, configs[number], first=number == 0, dropout=not learns), counted, quiet:
                with recording:
                    output = inputs.call(subnet if execution.wrap is None else execution.wrap(subnet))
                if number == 0:
                    objective.check(output, targets, values=looks_at(net.model, targets), teacher=soft)
                if not learns:
                    value = objective.value(output, targets)
                else:
                    value = objective.distill(output, soft, targets)
                    if label_loss_weight:
                        value = value + label_loss_weight * objective.value(output, targets)
                with several_widths(net.model, "sandwich_step") if len(chosen) > 1 else nullcontext():
                    backward(value if factor == 1.0 else value * factor)
            torch.clear_autocast_cache()  # otherwise copies of all weights of all widths would pile up
            return value.detach(), detached(output)

        key = (configs[number], number == 0, learns, factor, label_loss_weight)
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


def check_losses(result: SandwichResult) -> None:
    """Raise on a NaN or infinite loss; a GPU is waited for.

    Raises:
        NotFiniteError: a loss is not finite; the message names the widths.
    """
    if not math.isfinite(float(result.losses.sum())):
        pairs = zip(result.configs, result.losses.tolist(), strict=True)
        bad = [str(config) for config, value in pairs if not math.isfinite(value)]
        raise NotFiniteError(
            f"the loss is not finite at width {', '.join(bad)}; the weights have not been updated. "
            "Lower the learning rate, clip gradients, or check the data for NaN"
        )


def check_wrapping(net: Supernet, *, together: bool) -> None:
    """Raise if Lightning runs backward, or if the network was sharded or wrapped after the supernet was built."""
    check_manual_optimization()
    if getattr(net.model, "_is_fsdp_managed_module", False):
        check_unsharded(net.model)
    if together and net.model not in _unwrapped:
        check_unsharded(net.model)
        check_unwrapped(net.model)
        _unwrapped.add(net.model)


@contextmanager
def _prepared(net: Supernet, subnet: nn.Module, config: WidthConfig, *, first: bool, dropout: bool) -> Iterator[None]:
    """Context manager in which a subnet is ready for one forward and backward pass of a step."""
    if subnet is not net.model:
        follow_mode(net.model, subnet, dropout=dropout)
        device = model_device(net.model).type
        frozen = _frozen(net, subnet, config)
        # On a CPU, a gradient is still in the cache if it is moved at once.
        together = gradients_together(subnet) if device == "cuda" else nullcontext()
        # Also if autocast copies weights: gradients of dense weights are moved without another copy.
        lower = castable(net, subnet, device)
        dense = contiguous(subnet, cast=lower, dtype=torch.get_autocast_dtype(device)) if lower else contiguous(subnet)
        try:
            with frozen, dense, together:
                yield
        finally:
            if not dropout:
                follow_mode(net.model, subnet, dropout=True)
    elif first:
        yield
    else:  # a random width may round to the widest; then it is treated like any other random width
        written = (*net.own_buffers.names, *(name for pair in net.effects.norms for name in pair))
        with _passing(subnet, dropout=dropout), kept_buffers(subnet, written):
            yield


def _frozen(net: Supernet, subnet: nn.Module, config: WidthConfig) -> AbstractContextManager[None]:
    """Context manager in which a subnet trains with its frozen batch norms, if any."""
    if not net.frozen_norms.any:
        return nullcontext()
    if net.model.training or any(module.training for module in net.model.modules()):
        return net.frozen_norms.training_pass(config, subnet)
    if not net.statistics.is_usable(config):
        raise UncalibratedError(
            f"sandwich_step on a network in evaluation mode, whose width {config} has no up-to-date "
            "batch-norm statistics: call net.model.train() before the step. To freeze batch norms, call .eval() on "
            "them alone after that"
        )
    return nullcontext()


@contextmanager
def _passing(model: nn.Module, *, dropout: bool) -> Iterator[None]:
    """Context manager in which training batch norms store nothing; without `dropout`, dropout layers are off."""
    norms = [norm for norm in norm_modules(model).values() if norm.training and not stubborn(norm)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    with module_modes(model):
        for module in model.modules():
            module.training = module.training and (dropout or not is_dropout(module))
        try:
            for norm in norms:
                norm.momentum, norm.num_batches_tracked = 0.0, None
            yield
        finally:
            for norm, momentum, batches in before:
                norm.momentum, norm.num_batches_tracked = momentum, batches


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


def looks_at(model: nn.Module, targets: Any) -> bool:
    """Whether to check the values of targets, which is free on a CPU but makes a GPU wait."""
    if isinstance(targets, Tensor) and targets.device.type == "cpu":
        return True
    if model in _looked:
        return False
    _looked.add(model)
    return True
