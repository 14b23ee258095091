"""The whole analysis of a model: capture, propagate, solve, prove."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from anywidth.errors import AnalysisError
from anywidth.groups.analysis import Analysis
from anywidth.groups.propagate import propagate
from anywidth.groups.samples import find_samples, per_sample
from anywidth.groups.solve import solve
from anywidth.groups.trace import (
    Capture,
    Inputs,
    capture,
    double_batch,
    modes_differ,
    normalise_inputs,
    without_collection,
)
from anywidth.groups.verify import verify
from anywidth.groups.wrappers import check_plain, local_norms

__all__ = ["analyse"]


def analyse(model: nn.Module, example_inputs: Any, *, proof: bool = True, samples: int | None = None) -> Analysis:
    """The channel groups of a model.

    Args:
        model: Any module that `torch.export` can capture.
        example_inputs: A tensor, a tuple of arguments or a dict of keyword arguments.
        proof: Narrow every group and compare with the full network; groups that fail are frozen.
        samples: How many samples the example inputs hold; found by itself if None.

    Raises:
        AnalysisError: the model cannot be copied, captured or run on the inputs, or `samples` is not a positive
            integer.
    """
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        raise AnalysisError(f"samples={samples!r}; give the number of samples in example_inputs, such as samples=1")
    check_plain(model)
    _check_copies(model)
    inputs = normalise_inputs(example_inputs)
    modes: tuple[bool, ...] = (False,)
    with without_collection(), local_norms(model):
        if modes_differ(model, double_batch(inputs)):
            modes, inputs = (True, False), double_batch(inputs)
        captures, whole = _captures(model, inputs, modes)
        found = propagate(model, captures)
    if proof:
        with local_norms(model):
            analysis = verify(model, found, captures, inputs, run_training=not whole)
    else:
        analysis = solve(model, found)
    # Capturing may have doubled the example, because batch norms cannot train on one sample.
    copies = inputs.tensors()[0].numel() // max(1, normalise_inputs(example_inputs).tensors()[0].numel()) or 1
    batch = find_samples(model, analysis, inputs, captures[-1], samples and samples * copies)
    return per_sample(analysis, batch, copies)


def _captures(model: nn.Module, inputs: Inputs, modes: tuple[bool, ...]) -> tuple[list[Capture], bool]:
    """The graphs for these modes, and whether that for training could be captured, if it is one of them.

    Without it, what a forward does in training only (skipping layers at random, say) is not followed. Its parameters
    count as unused and are not narrowed, and the proof runs narrowed networks in training mode.
    """
    captures = []
    failed: AnalysisError | None = None
    for training in modes:
        try:
            captures.append(capture(model, inputs, training=training))
        except AnalysisError as error:
            if not training:
                raise _with_backbone(model, error) from error
            failed = error
    return captures, failed is None


def _with_backbone(model: nn.Module, error: AnalysisError) -> AnalysisError:
    """The error with another way, where a model (a detector, say) has a part that makes its features."""
    if not isinstance(getattr(model, "backbone", None), nn.Module):
        return error
    return AnalysisError(
        f"{error}. Its backbone alone may be possible: net = Supernet(model.backbone, images), and to run or train "
        "the whole model at a width, model.backbone = net.subnet(width)"
    )


def _check_copies(model: nn.Module) -> None:
    """Subnets are copies, which is impossible of tensors that autograd computed and a module keeps."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise AnalysisError(
                    f"{f'{path}.{name}' if path else name} is a tensor computed with gradients, so that the model "
                    "cannot be copied. If torch.nn.utils.weight_norm made it, use "
                    "torch.nn.utils.parametrizations.weight_norm instead; if a forward keeps it, detach it"
                )
