"""One training step of the sandwich rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal, ParamSpec, TypeVar
from weakref import WeakKeyDictionary, WeakSet

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
    gradients_together,
    norm_modules,
    record_autocast,
)
from anywidth.supernet.own_buffers import kept_buffers, stubborn
from anywidth.tasks import Distillations, Logits, Loss, Task, detached, logits_of, objective_of
from anywidth.training.automatic_optimization import check_manual_optimization
from anywidth.training.pass_graphs import Runner, run_directly
from anywidth.training.quiet_dropout import QuietDropout
from anywidth.widths import Width, WidthConfig, WidthSampler

__all__ = ["SandwichResult", "Teacher", "sandwich_step"]

P = ParamSpec("P")
R = TypeVar("R")
Teacher = Literal["widest", "wider"] | Callable[..., Any]

_pairs: WeakKeyDictionary[nn.Module, list[tuple[nn.Module, nn.Module, bool]]] = WeakKeyDictionary()
"""Per subnet: the modules inside its supernet beside its own, and whether they drop anything. The subnet itself is not
among them, or it would never be let go of."""

_looked: WeakSet[nn.Module] = WeakSet()
"""Models on a GPU whose first targets were looked at; to look at those of every step would make it wait."""
_unwrapped: WeakSet[nn.Module] = WeakSet()
"""Models that several processes train, and nobody has wrapped."""


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


def _settled(step: Callable[P, R]) -> Callable[P, R]:
    """Look for changes of the model once per step, not at every width."""

    @wraps(step)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        net: Any = args[0] if args else kwargs["net"]
        with net.settled():
            return step(*args, **kwargs)

    return once


@_settled
def sandwich_step(
    net: Supernet,
    inputs: Any,
    targets: Any,
    *,
    loss: Loss | None = None,
    task: Task | None = None,
    widths: int | Sequence[Width] | None = None,
    sampler: WidthSampler | None = None,
    distillation: Distillations | None = "auto",
    labels: float = 0.0,
    teacher: Teacher = "widest",
    weight: Callable[[WidthConfig], float] | None = None,
    scale: float = 1.0,
    backward: Callable[[Tensor], object] = Tensor.backward,
    logits: Logits = logits_of,
    check_finite: bool = True,
    runner: Runner = run_directly,
    wrap: Callable[[nn.Module], Callable[..., Any]] | None = None,
) -> SandwichResult:
    """Add the gradients of one sandwich step to `.grad` of the supernet's parameters; you step the optimizer.

    The widest is trained on the labels. With in-place distillation every other width learns from the widest's
    detached logits, and from nothing else; its dropout is off. Gradients are summed over the widths.

    What narrower widths learn follows from the loss where that leaves no doubt: from cross-entropy, the teacher's
    probabilities over the classes of that loss; from squared, absolute, Huber and smooth L1 errors, the same error
    against the teacher's numbers; from binary cross-entropy, the teacher's probabilities. Arguments of the loss
    stay, such as weights, `reduction` and `ignore_index`; labels alone are smoothed. Any other loss needs
    `distillation` or `task`.

    Args:
        net: The supernet.
        inputs: One batch: a tensor, a tuple of arguments or a dict of keyword arguments.
        targets: What `loss` compares the outputs with.
        loss: `loss(output, targets)`, a scalar; by default cross-entropy. A loss of torch, torchvision or timm gets
            the logits that `logits` finds, any other function what the model returned.
        task: Loss and distillation in one object, in place of `loss`, `distillation` and `logits`.
        widths: How many widths to train (the widest, the narrowest and random ones in between), or exactly these,
            of which the widest learns from the labels, whatever their order. By default 4, or all switches of a
            network that has switches.
        sampler: Where random widths come from; by default one that belongs to the supernet, seeded with 0.
        distillation: `distillation(student_logits, teacher_logits)`, a scalar; a third parameter named `target`
            receives the targets. By default it follows from the loss. A loss of torch means that loss against the
            teacher. None trains all widths on the labels. Where `logits` finds several tensors, a tuple or dict of
            functions, `"auto"` or None, whose values are summed, or one function of all of them.
        labels: How much of the loss on the labels is added to the distillation of the narrower widths.
        teacher: Who the narrower widths learn from: the widest; `wider`, which is the next wider of the step's widths;
            or a function of the inputs that gives logits, such as an average of the weights over training.
        weight: Multiplies the loss of a config, such as for smaller steps at narrow widths.
        scale: Multiplies every loss, such as 1 / steps for gradient accumulation.
        backward: How to run backward on a scaled loss, such as `lambda l: scaler.scale(l).backward()`.
        logits: Finds the logits in what the model returns, or a tuple or dict of several tensors, such as features,
            whose `logits` or first one the loss gets.
        check_finite: Raise on a NaN or infinite loss (one synchronisation per step on a GPU).
        runner: How to run the passes, such as `PassGraphs(net)` for CUDA graphs.
        wrap: What to call in place of a network, such as `CompiledSubnets()`.

    Raises:
        LossError: what narrower widths learn does not follow from the loss, or the output or the targets do not fit
            it (their numbers are looked at on a CPU, on a GPU in the first step only); no gradient was added.
        NotFiniteError: a loss is not finite; the optimizer has not been stepped.
        WidthError: a width does not fit.

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
    _check_wrapping(net, together=together)
    chosen = _widest_first(net, _widths(net, widths, sampler), descending=teacher == "wider")
    configs = tuple(net.config(width) for width in chosen)
    objective = objective_of(loss, distillation=distillation, logits=logits, task=task)
    if len(chosen) > 1:
        objective.require_distillation()
    call = normalise_inputs(inputs)
    losses: list[Tensor] = []
    soft: Any = None
    first: Any = None
    if callable(teacher) and objective.distills:
        with torch.no_grad():
            soft = objective.teach(call.call(teacher))
    for number, width in enumerate(chosen):
        subnet = net.subnet(width)
        learns = number > 0 and objective.distills
        factor = scale if weight is None else scale * weight(configs[number])

        def forward_backward(
            inputs: Inputs, targets: Any, soft: Any, subnet: nn.Module = subnet, number: int = number,
            learns: bool = learns, factor: float = factor,
        ) -> tuple[Tensor, Any]:  # fmt: skip
            recording = record_autocast(net.model, subnet) if wrap is None else nullcontext()
            quiet = QuietDropout() if learns and net.effects.drops else nullcontext()
            with _prepared(net, subnet, configs[number], first=number == 0, dropout=not learns), quiet:
                with recording:
                    output = inputs.call(subnet if wrap is None else wrap(subnet))
                if number == 0:
                    objective.check(output, targets, values=_looks_at(net.model, targets), teacher=soft)
                if not learns:
                    value = objective.value(output, targets)
                else:
                    value = objective.distill(output, soft, targets)
                    value = value + labels * objective.value(output, targets) if labels else value
                backward(value if factor == 1.0 else value * factor)
            torch.clear_autocast_cache()  # else copies of all weights of all widths pile up
            return value.detach(), detached(output)

        key = (configs[number], number == 0, learns, factor, labels)
        value, output = runner(key, forward_backward, call, targets, soft)
        losses.append(value)
        if number == 0:
            first = output
        teaches = teacher == "wider" or (teacher == "widest" and number == 0)
        if teaches and objective.distills and number + 1 < len(chosen):
            soft = objective.teach(output)
    if together:
        note_gradients(net.model)
    result = SandwichResult(configs=configs, losses=torch.stack(losses), output=first)
    if check_finite and not math.isfinite(float(result.losses.sum())):
        pairs = zip(chosen, result.losses.tolist(), strict=True)
        bad = [net.label(width) for width, value in pairs if not math.isfinite(value)]
        raise NotFiniteError(
            f"the loss is not finite at width {', '.join(bad)}; the weights have not been updated. "
            "Lower the learning rate, clip gradients, or check the data for NaN"
        )
    return result


def _check_wrapping(net: Supernet, *, together: bool) -> None:
    """Raise where somebody else runs backward, or has sharded or wrapped the network since the supernet was built."""
    check_manual_optimization()
    if getattr(net.model, "_is_fsdp_managed_module", False):
        check_unsharded(net.model)
    if together and net.model not in _unwrapped:
        check_unsharded(net.model)
        check_unwrapped(net.model)
        _unwrapped.add(net.model)


@contextmanager
def _prepared(net: Supernet, subnet: nn.Module, config: WidthConfig, *, first: bool, dropout: bool) -> Iterator[None]:
    """Within it, a subnet is ready for one forward and backward of a step."""
    if subnet is not net.model:
        follow_mode(net.model, subnet, dropout=dropout)
        device = model_device(net.model).type
        frozen = _frozen(net, subnet, config)
        # On a CPU, a gradient is still in the cache when it moves on at once.
        together = gradients_together(subnet) if device == "cuda" else nullcontext()
        # Also where autocast copies weights: gradients of dense ones move on without another copy.
        lower = castable(net.model, subnet, device)
        dense = contiguous(subnet, cast=lower, dtype=torch.get_autocast_dtype(device)) if lower else contiguous(subnet)
        try:
            with frozen, dense, together:
                yield
        finally:
            if not dropout:
                follow_mode(net.model, subnet, dropout=True)
    elif first:
        yield
    else:  # a random width may round to the widest; then it behaves like every other of them
        written = (*net.effects.written, *(name for pair in net.effects.norms for name in pair))
        with _passing(subnet, dropout=dropout), kept_buffers(subnet, written):
            yield


def _frozen(net: Supernet, subnet: nn.Module, config: WidthConfig) -> AbstractContextManager[None]:
    """Lets a subnet train with frozen batch norms, if there are any."""
    if not net.frozen_norms.any:
        return nullcontext()
    if net.model.training or any(module.training for module in net.model.modules()):
        return net.frozen_norms.training_pass(config, subnet, net.label(config))
    if not net.statistics.is_usable(config):
        raise UncalibratedError(
            f"sandwich_step on a network in evaluation mode, whose width {net.label(config)} has no up-to-date "
            "batch-norm statistics: call net.model.train() before the step. To freeze batch norms, call .eval() on "
            "them alone after that"
        )
    return nullcontext()


def follow_mode(model: nn.Module, subnet: nn.Module, *, dropout: bool) -> None:
    """Give a subnet the train/eval flags of its supernet; without `dropout`, its dropout layers rest."""
    pairs = _pairs.get(subnet)
    if pairs is None:  # walking through modules takes longer than the rest of a step around a small network
        below = list(zip(model.modules(), subnet.modules(), strict=True))[1:]
        pairs = _pairs[subnet] = [(ours, theirs, is_dropout(theirs)) for ours, theirs in below]
    for ours, theirs, drops in ((model, subnet, is_dropout(subnet)), *pairs):
        training = ours.training and (dropout or not drops)
        if theirs.training != training:
            theirs.training = training


@contextmanager
def _passing(model: nn.Module, *, dropout: bool) -> Iterator[None]:
    """Within it, batch norms in training store nothing and, without `dropout`, dropout layers rest."""
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


def _widths(net: Supernet, widths: int | Sequence[Width] | None, sampler: WidthSampler | None) -> list[Width]:
    if net.switches and isinstance(widths, int):
        raise WidthError(f"a network with switches has no random widths; list some of {net.switches}, or leave it out")
    if widths is None:
        widths = net.switches or 4
    if isinstance(widths, int) and not isinstance(widths, bool):
        if widths < 2:
            raise WidthError(f"the sandwich rule needs at least 2 widths (widest and narrowest), not {widths}")
        sampler = sampler or net.sampler
        return list(sampler.sandwich(widths))
    if not isinstance(widths, Sequence) or not widths:
        raise WidthError(f"widths must be a number of widths or a list of them, not {widths!r}")
    return list(widths)


def _widest_first(net: Supernet, widths: list[Width], *, descending: bool) -> list[Width]:
    """The widths with the one of most channels, which teaches the others, at the head; or all by falling channels."""

    def channels(number: int) -> int:
        return sum(net.config(widths[number]).values())

    if descending:
        return [widths[number] for number in sorted(range(len(widths)), key=channels, reverse=True)]
    widest = max(range(len(widths)), key=channels)
    return [widths[widest], *widths[:widest], *widths[widest + 1 :]]


def _looks_at(model: nn.Module, targets: Any) -> bool:
    """Whether to look at the numbers of targets, which costs nothing on a CPU and a wait on a GPU."""
    if isinstance(targets, Tensor) and targets.device.type == "cpu":
        return True
    if model in _looked:
        return False
    _looked.add(model)
    return True
