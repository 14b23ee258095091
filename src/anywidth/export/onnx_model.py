"""Conversion of a dense program to a minimal ONNX model that stores every weight once."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from anywidth.core.errors import ExportError, first_line
from anywidth.core.tensors import tensors_in
from anywidth.export.program import DenseProgram
from anywidth.export.require import require_onnx

if TYPE_CHECKING:
    import onnx

__all__ = ["LARGEST", "content", "onnx_model", "output_names"]

LARGEST = 2**31 - 2**24
"""Bytes of weights that fit into one ONNX file, a protocol buffer of at most 2 GiB."""


def onnx_model(dense: DenseProgram) -> onnx.ModelProto:
    """ONNX model of a dense program; inputs are named after the arguments of the forward.

    With a dynamic batch, the first dimension of inputs and outputs is called `batch`. Initializers have the names of
    the parameters, and equal ones are stored once. A single output is called `output`, several `output_0`, `output_1`,
    ...

    Raises:
        MissingExtraError: the packages of the extra `onnx` are not installed.
        ExportError: an operator cannot be converted to ONNX, or the weights do not fit into one file.

    >>> from torch import nn
    >>> from anywidth.export.program import dense_program
    >>> from anywidth.supernet import Supernet
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> [node.op_type for node in onnx_model(dense_program(net, 0.5)).graph.node]
    ['Gemm', 'Gemm']
    """
    require_onnx()
    tensors = [*dense.program.state_dict.values(), *dense.program.constants.values()]
    size = sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))
    if size > LARGEST:
        raise ExportError(f"the weights take {size / 2**30:.1f} GiB, but an ONNX file holds 2; use format 'pt2'")
    names = output_names(dense)
    try:
        with _quiet():
            program = torch.onnx.export(dense.program, dynamo=True, verbose=False, output_names=names)
        assert program is not None
        model = program.model_proto
    except Exception as error:  # the exporter's errors have no common base class
        raise ExportError(
            f"{type(dense.reference).__name__} cannot be converted to ONNX: {first_line(error)}"
        ) from error
    _strip(model)
    _share_equal_initializers(model)
    if dense.dynamic_batch:
        for value in (*model.graph.input, *model.graph.output):
            dims = value.type.tensor_type.shape.dim
            if dims and dims[0].HasField("dim_param"):
                dims[0].dim_param = "batch"
    return model


def output_names(dense: DenseProgram) -> list[str]:
    """Names for the output tensors of the network."""
    with torch.no_grad():
        count = len(tensors_in(dense.inputs.call(dense.reference)))
    return ["output"] if count == 1 else [f"output_{number}" for number in range(count)]


def content(tensor: onnx.TensorProto) -> bytes:
    """Digest of the dtype, shape and values of a tensor."""
    head = f"{tensor.data_type}{list(tensor.dims)}".encode()
    data = tensor.raw_data or tensor.SerializeToString(deterministic=True).replace(tensor.name.encode(), b"")
    return hashlib.sha256(head + data).digest()


def _strip(model: onnx.ModelProto) -> None:
    """Remove source-code information, which can be larger than a small network."""
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    model.producer_name = "anywidth"
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]
    for node in model.graph.node:
        node.name = ""


def _share_equal_initializers(model: onnx.ModelProto) -> None:
    first: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    outputs = {value.name for value in model.graph.output}
    for tensor in list(model.graph.initializer):
        kept = first.setdefault(content(tensor), tensor.name)
        if kept != tensor.name and tensor.name not in outputs:
            renamed[tensor.name] = kept
            model.graph.initializer.remove(tensor)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in renamed:
                node.input[place] = renamed[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Context manager that silences deprecation messages inside torch and onnxscript."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for module in (r"torch\.onnx.*", r"onnxscript.*", r"onnx_ir.*", r"copyreg"):
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
