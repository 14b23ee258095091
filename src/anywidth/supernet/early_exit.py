"""Early exits: every sample is answered at the narrowest width that is confident."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from anywidth.core.errors import LossError, SettingsError
from anywidth.core.inputs import Inputs, normalise_inputs
from anywidth.tasks import logits_of
from anywidth.tasks.fitting import describe

if TYPE_CHECKING:
    from anywidth.supernet.progressive import Progressive

__all__ = ["Answers", "EarlyExit", "check_confidence", "class_confidence", "exit_early"]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of an early-exit classifier, in the order of the inputs.

    Attributes:
        outputs: Logits, shape (batch, classes).
        widths: The position in `net.nested` of the width that answered each sample, shape (batch,).
    """

    outputs: Tensor
    widths: Tensor


@dataclass(frozen=True)
class EarlyExit:
    """An early-exit classifier: `exit_early` with a fixed confidence.

    Args:
        runner: Progressive inference of a nested classifier.
        confidence: As in `exit_early`.
    """

    runner: Progressive
    confidence: float

    def __post_init__(self) -> None:
        check_confidence(self.confidence)

    def __call__(self, inputs: Any) -> Answers:
        """The answers for one batch."""
        return exit_early(self.runner, inputs, confidence=self.confidence)


def exit_early(runner: Progressive, inputs: Any, *, confidence: float) -> Answers:
    """The output of every sample at the narrowest width that is confident; the widest answers what is left.

    Args:
        runner: Progressive inference of a nested classifier.
        inputs: One batch: a tensor, a tuple of arguments or a dict of keyword arguments. Samples lie along the first
            dimension of every tensor.
        confidence: The softmax probability, in [0, 1], that the most likely class of a sample has to reach.

    Raises:
        LossError: the output is not logits of shape (batch, classes).
        SettingsError: the confidence is not in [0, 1].

    >>> from torch import nn
    >>> from anywidth import Supernet
    >>> model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
    >>> net = Supernet(model, torch.randn(1, 4), nested=(0.25, 0.5, 1.0))
    >>> answers = exit_early(net.progressive(), torch.randn(8, 4), confidence=0.9)
    >>> answers.outputs.shape, answers.widths.shape
    (torch.Size([8, 3]), torch.Size([8]))
    """
    check_confidence(confidence)
    call = normalise_inputs(inputs)
    logits = _logits(runner.start(call), call)
    outputs = torch.empty_like(logits)
    left = torch.arange(len(logits), device=logits.device)
    widths = torch.zeros_like(left)
    shell = 0
    while runner.next_width is not None:
        sure = class_confidence(logits) >= confidence
        rest = torch.nonzero(~sure).squeeze(1)
        outputs[left[sure]], widths[left[sure]] = logits[sure], shell
        if not len(rest):
            return Answers(outputs=outputs, widths=widths)
        if len(rest) < len(left):
            runner.select(rest)
            left = left[rest]
        logits = logits_of(runner.refine())
        shell += 1
    outputs[left], widths[left] = logits, shell
    return Answers(outputs=outputs, widths=widths)


def class_confidence(logits: Tensor) -> Tensor:
    """Softmax probability of the most likely class, shape (batch,).

    >>> class_confidence(torch.zeros(1, 4))
    tensor([0.2500])
    """
    return logits.float().softmax(1).amax(1)


def check_confidence(confidence: float) -> None:
    """Raise unless a confidence is in [0, 1].

    Raises:
        SettingsError: it is not.
    """
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 <= confidence <= 1:
        raise SettingsError(
            f"confidence={confidence!r} is not a probability; give the softmax probability at which a sample is "
            "answered, between 0 and 1, such as confidence=0.9"
        )


def _logits(output: Any, inputs: Inputs) -> Tensor:
    logits = logits_of(output)
    sizes = {tensor.shape[0] if tensor.ndim else None for tensor in inputs.tensors()}
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise LossError(
            f"early exits need the logits of a classifier, shape (batch, classes), but the output is "
            f"{describe(logits)}. Decide yourself when an answer is good enough: call runner.start, runner.select and "
            "runner.refine"
        )
    if sizes != {len(logits)}:
        raise LossError(
            f"early exits need samples along the first dimension of every input, but the output has {len(logits)} "
            f"samples and the inputs have {', '.join(str(tuple(tensor.shape)) for tensor in inputs.tensors())}"
        )
    return logits
