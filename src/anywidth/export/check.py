"""Check that an exported file computes the same outputs as the subnet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from anywidth.core.errors import ExportError
from anywidth.core.inputs import Inputs
from anywidth.core.tensors import tensors_in
from anywidth.export.program import DenseProgram

__all__ = ["TOLERANCE", "check_outputs", "check_program", "outputs_of"]

TOLERANCE = 1e-4
"""Largest allowed difference from the subnet's outputs, relative to outputs above 1."""

Run = Callable[[Inputs], Sequence[Tensor]]


def outputs_of(model: nn.Module) -> Run:
    """Function that runs a model and returns its output tensors in order."""

    def run(inputs: Inputs) -> list[Tensor]:
        with torch.inference_mode():
            return tensors_in(inputs.call(model))

    return run


def check_outputs(
    written: Run, reference: nn.Module, inputs: Inputs, *, what: str, dynamic_batch: bool, tolerance: float = TOLERANCE
) -> float:
    """Largest difference between the outputs of an exported file and of its reference network.

    Compared on the example inputs, and on a single sample if the batch size is dynamic.

    Raises:
        ExportError: the difference exceeds the tolerance, or a shape differs.

    >>> layer = nn.Linear(4, 2)
    >>> inputs = Inputs(args=(torch.randn(3, 4),), kwargs={})
    >>> check_outputs(outputs_of(layer), layer, inputs, what="a layer", dynamic_batch=True)
    0.0
    """
    size = next(tensor.shape[0] for tensor in inputs.tensors() if tensor.ndim)
    single = inputs.map(lambda tensor: tensor[:1] if tensor.ndim and tensor.shape[0] == size else tensor)
    worst = 0.0
    for batch in (inputs, single) if dynamic_batch else (inputs,):
        wanted, got = outputs_of(reference)(batch), written(batch)
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (got, wanted)]
        if shapes[0] != shapes[1]:
            raise ExportError(f"{what} returns shapes {shapes[0]} but the network returns {shapes[1]}")
        for ours, theirs in zip(got, wanted, strict=True):
            scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
            difference = float((ours.double() - theirs.double()).abs().max()) / scale if theirs.numel() else 0.0
            if not difference <= tolerance:  # also true for NaN
                raise ExportError(
                    f"{what} differs from the network by {difference:.2g}, above the tolerance of {tolerance:.0e}; "
                    "nothing was written. Please report this model"
                )
            worst = max(worst, difference)
    return worst


def check_program(dense: DenseProgram, written: Run, *, tolerance: float, what: str = "the file") -> float:
    """Largest difference between an exported file and the network of a dense program; see `check_outputs`."""
    return check_outputs(
        written, dense.reference, dense.inputs, what=what, dynamic_batch=dense.dynamic_batch, tolerance=tolerance
    )
