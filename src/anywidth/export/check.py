"""Whether what was written computes what the subnet does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from anywidth.core.errors import ExportError
from anywidth.core.inputs import Inputs
from anywidth.export.program import DenseProgram

__all__ = ["TOLERANCE", "check_outputs", "check_program", "outputs_of"]

TOLERANCE = 1e-4
"""The largest difference to the subnet's outputs, as a share of the largest of them where that is above 1."""

Run = Callable[[Inputs], Sequence[Tensor]]


def outputs_of(model: nn.Module) -> Run:
    """Runs a model and gives the tensors that it returns, in order."""

    def run(inputs: Inputs) -> list[Tensor]:
        with torch.inference_mode():
            return [leaf for leaf in pytree.tree_leaves(inputs.call(model)) if isinstance(leaf, Tensor)]

    return run


def check_outputs(
    written: Run, reference: nn.Module, inputs: Inputs, *, what: str, dynamic_batch: bool, tolerance: float = TOLERANCE
) -> float:
    """The largest difference between what was written and the network that it is meant to be.

    Compared on the example inputs, and on one sample of them if the batch is open.

    Raises:
        ExportError: the difference is above the tolerance, or a shape differs.

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
            raise ExportError(f"{what} returns shapes {shapes[0]} where the network returns {shapes[1]}")
        for ours, theirs in zip(got, wanted, strict=True):
            scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
            difference = float((ours.double() - theirs.double()).abs().max()) / scale if theirs.numel() else 0.0
            if not difference <= tolerance:  # also where it is not a number
                raise ExportError(
                    f"{what} differs from the network by {difference:.2g}, and {tolerance:.0e} is allowed; "
                    "nothing was written. Please report the model"
                )
            worst = max(worst, difference)
    return worst


def check_program(dense: DenseProgram, written: Run, *, tolerance: float, what: str = "the file") -> float:
    """The largest difference between what was written and the network of a dense program; see `check_outputs`."""
    return check_outputs(
        written, dense.reference, dense.inputs, what=what, dynamic_batch=dense.dynamic_batch, tolerance=tolerance
    )
