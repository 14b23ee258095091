"""The whole analysis of a model: capture, propagate, solve, prove."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from anywidth.errors import AnalysisError
from anywidth.groups.analysis import Analysis
from anywidth.groups.duplicate import duplicate, stand_ins
from anywidth.groups.explain import own_error
from anywidth.groups.forward import attributes_of, forward_of
from anywidth.groups.probe import probe
from anywidth.groups.propagate import propagate
from anywidth.groups.refuse import check_model
from anywidth.groups.solve import solve
from anywidth.groups.trace import capture, double_batch, normalise_inputs, without_collection
from anywidth.groups.untouched import untouched
from anywidth.groups.verify import verify

__all__ = ["analyse", "forward_now"]


def analyse(model: nn.Module, example_inputs: Any, *, proof: bool = True) -> Analysis:
    """The channel groups of a model.

    Everything runs on copies. The model itself, random numbers and other global state are as before afterwards.

    Args:
        model: Any module that `torch.export` can capture.
        example_inputs: A tensor, a tuple of arguments or a dict of keyword arguments.
        proof: Narrow every group and compare with the full network; groups that fail are frozen.

    Raises:
        AnalysisError: the model cannot be copied, captured or run on the inputs.
    """
    check_model(model)
    inputs = normalise_inputs(example_inputs)
    with untouched(model):
        with without_collection():
            seen = probe(model, double_batch(inputs))
            twin = duplicate(model, stand_ins(model), seen.written)
            modes: tuple[bool, ...] = (False,)
            if seen.modes_differ:
                modes, inputs = (True, False), double_batch(inputs)
            captures = [capture(twin, inputs, training=training) for training in modes]
            found = propagate(twin, captures)
        analysis = verify(twin, found, captures, inputs) if proof else solve(twin, found)
        wrong = None if analysis.elastic else own_error(twin, inputs, training=False)
    if wrong is not None:  # captures are made without numbers, where some types of inputs pass
        raise AnalysisError(wrong)
    return replace(analysis, written=seen.written, forward=forward_of(captures[-1]), plain=attributes_of(model))


def forward_now(model: nn.Module, example_inputs: Any, analysis: Analysis) -> tuple[str, ...]:
    """What the forward of a model does, as `Analysis.forward`; captured anew if its attributes have changed since."""
    if attributes_of(model) == analysis.plain:
        return analysis.forward
    with untouched(model), without_collection():
        twin = duplicate(model, stand_ins(model), analysis.written)
        return forward_of(capture(twin, normalise_inputs(example_inputs), training=False))
