"""The whole analysis of a model: capture, propagate, solve, prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from anywidth.core.errors import AnalysisError
from anywidth.core.inputs import Inputs, double_batch, normalise_inputs
from anywidth.core.modules import named_tensors
from anywidth.groups.analysis import Analysis
from anywidth.groups.capture import Capture, capture, without_collection
from anywidth.groups.carried import caches_weights, check_nothing_carried
from anywidth.groups.circumstances import other_captures
from anywidth.groups.copy_check import check_copy
from anywidth.groups.duplicate import duplicate
from anywidth.groups.explain import own_error
from anywidth.groups.forward import attributes_of, forward_of
from anywidth.groups.probe import probe
from anywidth.groups.propagate import propagate
from anywidth.groups.refuse import check_inputs, check_model
from anywidth.groups.repair import prove_groups
from anywidth.groups.samples import find_samples, per_sample
from anywidth.groups.solve import solve
from anywidth.groups.tensor_stand_ins import stand_ins
from anywidth.groups.untouched import untouched
from anywidth.groups.wrappers import check_plain, local_norms

__all__ = ["analyse", "forward_now"]


def analyse(model: nn.Module, example_inputs: Any, *, proof: bool = True, samples: int | None = None) -> Analysis:
    """The channel groups of a model.

    Everything runs on copies. The model, the random state and other global state are unchanged afterwards.

    Args:
        model: Any module that `torch.export` can capture.
        example_inputs: A tensor, a tuple of arguments or a dict of keyword arguments.
        proof: Narrow every group and compare with the full network; freeze groups that fail.
        samples: Number of samples in the example inputs; None detects it.

    Raises:
        AnalysisError: the model cannot be copied, captured or run on the inputs, or `samples` is not a positive
            integer.
    """
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        raise AnalysisError(f"samples={samples!r}; give the number of samples in example_inputs, such as samples=1")
    if isinstance(model, nn.Module):
        check_plain(model)
    check_model(model)
    given = inputs = normalise_inputs(example_inputs)
    check_inputs(inputs)
    with untouched(model), local_norms(model):
        with without_collection():
            seen = probe(model, double_batch(inputs))
            _check_inputs_kept(model, inputs, seen.changed_inputs)
            check_nothing_carried(model, given, seen.written)
            keeps_weights = caches_weights(model, given, seen.written)
            twin = duplicate(model, stand_ins(model, weights=True, buffers=True), seen.written)
            modes: tuple[bool, ...] = (False,)
            if seen.modes_differ:
                modes, inputs = (True, False), double_batch(inputs)
            captures, whole = _captures(twin, inputs, modes)
            others = other_captures(twin, inputs, captures)
            _check_own_tensors(model, [*captures, *others])
            found = propagate(twin, [*others, *captures])
        analysis = prove_groups(twin, found, captures, inputs, run_training=not whole) if proof else solve(twin, found)
        # The capture may have doubled the example, because batch norms cannot train on one sample.
        copies = inputs.tensors()[0].numel() // max(1, given.tensors()[0].numel()) or 1
        batch = find_samples(twin, analysis, inputs, captures[-1], samples and samples * copies)
        analysis = per_sample(analysis, batch, copies)
        check_copy(model, given, seen.written, macs=sum(operator.macs for operator in analysis.operators))
        wrong = None if analysis.elastic else own_error(twin, inputs, training=False)
    if wrong is not None:  # captures run without numbers, so they accept some inputs that fail otherwise
        raise AnalysisError(wrong)
    return replace(
        analysis,
        written=seen.written,
        caches_weights=keeps_weights,
        forward=forward_of(captures[-1]),
        plain=attributes_of(model),
    )


def _check_inputs_kept(model: nn.Module, inputs: Inputs, changed: Sequence[int]) -> None:
    """Refuse a model that writes to its inputs: the next width would get other ones."""
    if changed:
        shape = tuple(inputs.tensors()[changed[0]].shape)
        raise AnalysisError(
            f"the forward of {type(model).__name__} changes its input of shape {shape} in place, so the next width "
            "would be given other numbers. Copy it at the start of the forward: x = x.clone()"
        )


def _check_own_tensors(model: nn.Module, captures: Sequence[Capture]) -> None:
    """Refuse a model of which a copy still uses tensors of the original, by an object that was not copied."""
    names = {tensor.data_ptr(): name for name, tensor in named_tensors(model).items() if tensor.numel()}
    for constant in (tensor for each in captures for tensor in each.constants.values() if tensor.numel()):
        name = names.get(constant.data_ptr())
        if name is not None:
            raise AnalysisError(
                f"a copy of {type(model).__name__} still uses {name} of the original, so subnets would call modules of "
                "the full network. An object that leads to the model cannot be copied: a generator, a cached function, "
                "a class attribute, or a class whose __deepcopy__ returns the object itself. Let the forward use "
                "self instead"
            )


def _captures(model: nn.Module, inputs: Inputs, modes: tuple[bool, ...]) -> tuple[list[Capture], bool]:
    """The graphs for these modes, and whether the training graph, if requested, could be captured.

    Without it, the analysis does not follow code that runs only in training (such as skipping layers at random).
    Parameters that only this code uses are not narrowed, and the proof runs narrowed networks in training mode.
    """
    captures = []
    failed: AnalysisError | None = None
    for training in modes:
        try:
            with torch.enable_grad():
                captures.append(capture(model, inputs, training=training))
        except AnalysisError as error:
            if not training:
                raise _with_backbone(model, error) from error
            failed = error
    return captures, failed is None


def _with_backbone(model: nn.Module, error: AnalysisError) -> AnalysisError:
    """The error with an alternative, for models with a backbone, such as detectors."""
    if not isinstance(getattr(model, "backbone", None), nn.Module):
        return error
    if type(model).__name__ in ("SSD", "RetinaNet", "FCOS", "FasterRCNN"):
        return AnalysisError(
            f"{error}. For detectors of torchvision: task = anywidth.tasks.Detection(model), "
            "net = Supernet(task.body, task.example()), and sandwich_step(net, images, targets, task=task)"
        )
    return AnalysisError(
        f"{error}. Its backbone alone may be possible: net = Supernet(model.backbone, images), and to run or train "
        "the whole model at a width, model.backbone = net.subnet(width)"
    )


def forward_now(model: nn.Module, example_inputs: Any, analysis: Analysis) -> tuple[str, ...]:
    """The lines of a model's forward, as in `Analysis.forward`; captured again if its attributes have changed."""
    if attributes_of(model) == analysis.plain:
        return analysis.forward
    with untouched(model), without_collection():
        twin = duplicate(model, stand_ins(model), analysis.written)
        return forward_of(capture(twin, normalise_inputs(example_inputs), training=False))
