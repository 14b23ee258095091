"""ONNX with folded batch norms and weights in the file, for ONNX Runtime and many others."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from anywidth.export.check import check_program
from anywidth.export.formats.registry import FORMATS, ExportFormat, Write
from anywidth.export.latency import onnx_latency
from anywidth.export.onnx_model import onnx_model
from anywidth.export.program import dense_program
from anywidth.export.require import require_onnx
from anywidth.export.session import open_session, runner
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["ONNX"]


def _prepare(net: Supernet, width: Width, *, dynamic_batch: bool, blocked: bool = False) -> Write:
    require_onnx()
    dense = dense_program(net, width, dynamic_batch=dynamic_batch, blocked=blocked)
    content = onnx_model(dense).SerializeToString()

    def write(path: Path, tolerance: float) -> float:
        path.write_bytes(content)
        return check_program(dense, runner(open_session(path)), tolerance=tolerance)

    return write


ONNX = FORMATS.add(
    ExportFormat(
        name="onnx",
        suffixes=(".onnx",),
        prepare=_prepare,
        prepare_blocked=partial(_prepare, blocked=True),
        latency=onnx_latency,
    )
)
