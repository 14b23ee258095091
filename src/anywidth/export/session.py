"""ONNX Runtime sessions on the CPU, called with the inputs of a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anywidth.core.errors import ExportError
from anywidth.core.inputs import Inputs
from anywidth.export.require import require_onnx

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["feeds", "open_session", "runner"]


def open_session(model: Path | bytes, *, threads: int | None = None) -> onnxruntime.InferenceSession:
    """ONNX Runtime session on the CPU.

    Args:
        model: A file, or its content.
        threads: Threads within an operator; by default as many as torch uses.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        ExportError: the file is missing, or ONNX Runtime cannot read it.
    """
    require_onnx()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads() if threads is None else threads
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's errors have no common base class
        name = "the model" if isinstance(model, bytes) else model
        raise ExportError(f"ONNX Runtime cannot open {name}: {error}") from error


def feeds(session: onnxruntime.InferenceSession, inputs: Inputs) -> dict[str, npt.NDArray[Any]]:
    """Tensors of a call by the names of the session's inputs, in order; floats are converted to the session's dtype."""
    wanted = session.get_inputs()
    tensors = inputs.tensors()
    if len(wanted) < len(tensors):
        raise ExportError(f"the file takes {[i.name for i in wanted]}, but the network takes {len(tensors)} tensors")
    arrays = [tensor.detach().cpu().numpy() for tensor in tensors]
    return {
        item.name: array.astype(np.float32) if array.dtype.kind == "f" else array
        for item, array in zip(wanted, arrays, strict=False)
    }


def runner(session: onnxruntime.InferenceSession, **extra: npt.NDArray[Any]) -> Callable[[Inputs], list[Tensor]]:
    """Function that calls a session and returns its output tensors; `extra` are inputs that the network lacks."""

    def run(inputs: Inputs) -> list[Tensor]:
        outputs = session.run(None, {**feeds(session, inputs), **extra})
        return [torch.from_numpy(np.asarray(output)) for output in outputs]

    return run
