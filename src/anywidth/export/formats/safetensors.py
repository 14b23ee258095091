"""Safetensors with unchanged batch norms, for the model's own class, by `anywidth.export.load_dense`."""

from __future__ import annotations

import copy
from pathlib import Path

from anywidth.export.check import check_outputs, outputs_of
from anywidth.export.formats.registry import FORMATS, ExportFormat, Write
from anywidth.export.torch_file import load_dense, save_dense
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["SAFETENSORS"]


def _prepare(net: Supernet, width: Width, *, dynamic_batch: bool) -> Write:
    dense = net.extract(width).cpu().float()
    dense.eval()
    full = copy.deepcopy(net.model).cpu().float()
    full.eval()
    inputs = net.inputs.map(lambda t: t.detach().cpu().float() if t.is_floating_point() else t.cpu())

    def write(path: Path, tolerance: float) -> float:
        save_dense(dense, full, path)
        again = outputs_of(load_dense(path, full))
        return check_outputs(again, dense, inputs, what="the file", dynamic_batch=False, tolerance=tolerance)

    return write


SAFETENSORS = FORMATS.add(ExportFormat(name="torch", suffixes=(".safetensors",), prepare=_prepare))
