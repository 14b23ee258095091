"""The whole analysis of a model: capture, propagate, solve, prove."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from anywidth.errors import AnalysisError
from anywidth.groups.analysis import Analysis
from anywidth.groups.propagate import propagate
from anywidth.groups.solve import solve
from anywidth.groups.trace import capture, double_batch, modes_differ, normalise_inputs, without_collection
from anywidth.groups.verify import verify
from anywidth.groups.wrappers import check_plain, local_norms

__all__ = ["analyse"]


def analyse(model: nn.Module, example_inputs: Any, *, proof: bool = True) -> Analysis:
    """The channel groups of a model.

    Args:
        model: Any module that `torch.export` can capture.
        example_inputs: A tensor, a tuple of arguments or a dict of keyword arguments.
        proof: Narrow every group and compare with the full network; groups that fail are frozen.

    Raises:
        AnalysisError: the model cannot be copied, captured or run on the inputs.
    """
    check_plain(model)
    _check_copies(model)
    inputs = normalise_inputs(example_inputs)
    modes: tuple[bool, ...] = (False,)
    with without_collection(), local_norms(model):
        if modes_differ(model, double_batch(inputs)):
            modes, inputs = (True, False), double_batch(inputs)
        captures = [capture(model, inputs, training=training) for training in modes]
        found = propagate(model, captures)
    if not proof:
        return solve(model, found)
    with local_norms(model):
        return verify(model, found, captures, inputs)


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
