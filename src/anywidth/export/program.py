"""One width as an exported program: dense, in 32-bit floats, batch norms folded, the batch size open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from anywidth.core.errors import ExportError, first_line
from anywidth.core.inputs import Inputs, double_batch
from anywidth.export.fold import fold_batch_norms_
from anywidth.export.functional import make_activations_functional_
from anywidth.groups.capture import quiet_export
from anywidth.groups.duplicate import duplicate, stand_ins
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["DenseProgram", "dense_program"]

_FIXED_BATCH = (
    ". If it is the batch that has to stay open: write x.shape[0] and not len(x) in the forward, "
    "or give dynamic_batch=False for a file that takes the batch of the example inputs"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseProgram:
    """One width, ready to be written.

    Attributes:
        program: The graph that is written.
        reference: The plain network that it has to equal.
        inputs: Example inputs, on the CPU, in 32-bit floats and with at least two samples.
        scales: What weights were multiplied with to fold batch norms, by name.
        dynamic_batch: Whether the program takes any number of samples.
    """

    program: ExportedProgram
    reference: nn.Module
    inputs: Inputs
    scales: Mapping[str, Tensor]
    dynamic_batch: bool


def dense_program(net: Supernet, width: Width, *, dynamic_batch: bool = True, calibrated: bool = True) -> DenseProgram:
    """The exported program of one width; see `DenseProgram`.

    Args:
        net: The supernet; nothing of it changes.
        width: As in `Supernet.config`; it has to be calibrated.
        dynamic_batch: Leave the number of samples open; otherwise it is that of the example inputs.
        calibrated: Whether batch norms get the statistics of the width; without, what it computes is of no use, but the
            time that it takes is the same.

    Raises:
        UncalibratedError: the width has no up-to-date batch-norm statistics.
        ExportError: the forward of the network works for one batch size only.

    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> dense = dense_program(net, 0.5)
    >>> dense.program.module()(torch.randn(7, 4)).shape
    torch.Size([7, 2])
    """
    reference = net.extract(width, calibrated=calibrated).cpu().float().eval().requires_grad_(False)
    inputs = net.inputs.map(lambda t: t.detach().cpu().float() if t.is_floating_point() else t.cpu())
    inputs = double_batch(inputs) if dynamic_batch else inputs
    # One tensor for each place: shapes are given by tensor.
    inputs = inputs.map(lambda tensor: tensor.clone())
    try:
        with torch.no_grad(), quiet_export():
            module = _capture(reference, inputs, dynamic_batch).module(check_guards=False)
            scales = fold_batch_norms_(module)
            make_activations_functional_(module)
            program = _capture(module, inputs, dynamic_batch)
            _strip(program)
    except Exception as error:  # what torch.export raises has no common base
        raise ExportError(
            f"{type(net.model).__name__} at width {net.label(width)} could not be exported: "
            f"{type(error).__name__}: {first_line(error)}{_FIXED_BATCH if dynamic_batch else ''}"
        ) from error
    return DenseProgram(program=program, reference=reference, inputs=inputs, scales=scales, dynamic_batch=dynamic_batch)


def _capture(module: nn.Module, inputs: Inputs, dynamic_batch: bool) -> ExportedProgram:
    shapes = None
    if dynamic_batch:
        collection, batch = ShapesCollection(), Dim("batch")
        size = next(tensor.shape[0] for tensor in inputs.tensors() if tensor.ndim)
        for tensor in inputs.tensors():
            collection[tensor] = {0: batch} if tensor.ndim and tensor.shape[0] == size else None
        shapes = collection.dynamic_shapes(module, inputs.args, inputs.kwargs)
    # Of a copy, because a forward may keep what belongs to the graph: a grid, and the shape for which it was made.
    module = duplicate(module, stand_ins(module))
    return torch.export.export(module, inputs.args, inputs.kwargs, dynamic_shapes=shapes, strict=False)


def _strip(program: ExportedProgram) -> None:
    """Drop the example inputs, which can be as large as the weights, and where in the code operators come from."""
    program.example_inputs = None
    for node in program.graph.nodes:
        for key in ("nn_module_stack", "from_node", "torch_fn", "source_fn_stack"):
            node.meta.pop(key, None)
