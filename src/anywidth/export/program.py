"""Exported program of one width: dense, 32-bit floats, folded batch norms, dynamic batch size."""

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
from anywidth.groups.duplicate import duplicate
from anywidth.groups.tensor_stand_ins import stand_ins
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["DenseProgram", "dense_program"]

_FIXED_BATCH = (
    ". If the batch size is the problem, write x.shape[0] instead of len(x) in the forward, "
    "or give dynamic_batch=False for a file with the batch size of the example inputs"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseProgram:
    """One width, ready for writing.

    Attributes:
        program: The graph to write.
        reference: The plain network that the file must match.
        inputs: Example inputs on the CPU, as 32-bit floats with at least two samples.
        scales: Factors of the weights from folding batch norms, by name.
        dynamic_batch: Whether the program accepts any batch size.
    """

    program: ExportedProgram
    reference: nn.Module
    inputs: Inputs
    scales: Mapping[str, Tensor]
    dynamic_batch: bool


def dense_program(
    net: Supernet, width: Width, *, dynamic_batch: bool = True, calibrated: bool = True, blocked: bool = False
) -> DenseProgram:
    """Exported program of one width; see `DenseProgram`.

    Args:
        net: The supernet, which is not changed.
        width: As in `Supernet.config`; must be calibrated.
        dynamic_batch: Whether the batch size is dynamic; otherwise it is that of the example inputs.
        calibrated: Whether batch norms use the statistics of the width. Without, the outputs are meaningless but the
            latency is the same.
        blocked: Whether the graph skips the zero blocks of a nested network, as `net.blocked` does.

    Raises:
        UncalibratedError: the width has no up-to-date batch-norm statistics.
        ExportError: the forward of the network supports only one batch size.

    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> dense = dense_program(net, 0.5)
    >>> dense.program.module()(torch.randn(7, 4)).shape
    torch.Size([7, 2])
    """
    reference = net.extract(width, calibrated=calibrated).cpu().float().requires_grad_(False)
    reference.eval()
    written = net.blocked(width).cpu().float().requires_grad_(False).eval() if blocked else reference
    inputs = net.inputs.map(lambda t: t.detach().cpu().float() if t.is_floating_point() else t.cpu())
    inputs = double_batch(inputs) if dynamic_batch else inputs
    # Each input gets its own tensor, because dynamic shapes are assigned by tensor.
    inputs = inputs.map(lambda tensor: tensor.clone())
    try:
        with torch.no_grad(), quiet_export():
            module = _capture(written, inputs, dynamic_batch).module(check_guards=False)
            scales = fold_batch_norms_(module)
            make_activations_functional_(module)
            program = _capture(module, inputs, dynamic_batch)
            _strip(program)
    except Exception as error:  # errors of torch.export have no common base class
        raise ExportError(
            f"{type(net.model).__name__} at width {net.config(width)} cannot be exported: "
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
    # On a copy, because a forward may store tensors that belong to the graph, such as a grid and its shape.
    module = duplicate(module, stand_ins(module))
    return torch.export.export(module, inputs.args, inputs.kwargs, dynamic_shapes=shapes, strict=False)


def _strip(program: ExportedProgram) -> None:
    """Remove the example inputs, which can be as large as the weights, and source locations."""
    program.example_inputs = None
    for node in program.graph.nodes:
        for key in ("nn_module_stack", "from_node", "torch_fn", "source_fn_stack"):
            node.meta.pop(key, None)
