"""Archive of `torch.export` with folded batch norms, for PyTorch without the model's code, and ExecuTorch."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

import torch

from anywidth.export.check import check_program, outputs_of
from anywidth.export.formats.registry import FORMATS, ExportFormat, Write
from anywidth.export.program import dense_program
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["PT2"]


def _prepare(net: Supernet, width: Width, *, dynamic_batch: bool, blocked: bool = False) -> Write:
    dense = dense_program(net, width, dynamic_batch=dynamic_batch, blocked=blocked)
    buffer = io.BytesIO()
    torch.export.save(dense.program, buffer)

    def write(path: Path, tolerance: float) -> float:
        path.write_bytes(buffer.getvalue())
        with path.open("rb") as file:
            again = torch.export.load(io.BytesIO(file.read()))
        return check_program(dense, outputs_of(again.module()), tolerance=tolerance)

    return write


PT2 = FORMATS.add(
    ExportFormat(name="pt2", suffixes=(".pt2",), prepare=_prepare, prepare_blocked=partial(_prepare, blocked=True))
)
