"""`anywidth.export`: one width as a file that other programs run."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from anywidth.core.errors import ExportError
from anywidth.core.files import write_atomically
from anywidth.cost import macs, params
from anywidth.export.check import TOLERANCE, Run, check_outputs, outputs_of
from anywidth.export.onnx_model import onnx_model
from anywidth.export.program import DenseProgram, dense_program
from anywidth.export.require import require_onnx
from anywidth.export.session import open_session, runner
from anywidth.export.torch_file import load_dense, save_dense
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["Exported", "Format", "export", "format_of"]

Format = Literal["onnx", "torch", "pt2"]
_ENDINGS: dict[str, Format] = {".onnx": "onnx", ".safetensors": "torch", ".pt2": "pt2"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A written file.

    Attributes:
        path: The file.
        format: onnx, torch or pt2.
        widths: The names of the widths in it.
        macs: Multiply-adds per sample of each width.
        params: Parameters of each width.
        size: Bytes of the file.
        difference: The largest difference to the subnets' outputs that the check found, relative to outputs above 1.
    """

    path: Path
    format: Format
    widths: tuple[str, ...]
    macs: tuple[int, ...]
    params: tuple[int, ...]
    size: int
    difference: float


def format_of(path: Path, format: str | None = None) -> Format:
    """The format that is asked for, or that the ending of a file means.

    >>> format_of(Path("small.onnx")), format_of(Path("small.bin"), "torch")
    ('onnx', 'torch')
    """
    known = ", ".join(get_args(Format))
    if format is not None and format not in get_args(Format):
        raise ExportError(f"format {format!r} is unknown; choose one of {known}")
    found = format or _ENDINGS.get(path.suffix)
    if found is None:
        raise ExportError(
            f"the ending of {path.name!r} means no format; say format= one of {known}, or end it in .onnx"
        )
    return found  # type: ignore[return-value]


def export(
    net: Supernet,
    width: Width,
    path: str | Path,
    format: Format | None = None,
    *,
    dynamic_batch: bool = True,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write one width as a file, and check that the file computes what the subnet does.

    | format | what is written | who runs it |
    |---|---|---|
    | `onnx` | ONNX, batch norms folded, weights in the file | ONNX Runtime and many others |
    | `pt2` | the archive of `torch.export`, batch norms folded | PyTorch without the model's code, ExecuTorch |
    | `torch` | safetensors, batch norms as they are | the model's own class, by `anywidth.export.load_dense` |

    Weights are 32-bit floats, whatever the supernet's are. The file appears when it is complete and checked.

    Args:
        net: The supernet; nothing of it changes.
        width: As in `Supernet.config`; it has to be calibrated.
        path: The file to write.
        format: By default what the ending of `path` means: .onnx, .pt2 or .safetensors.
        dynamic_batch: Let the file take any number of samples; otherwise it takes as many as the example inputs have.
            A `torch` file takes any.
        tolerance: The largest difference to the subnet's outputs, as a share of the largest of them if above 1.

    Raises:
        UncalibratedError: the width has no up-to-date batch-norm statistics.
        ExportError: the network cannot be exported, or the file computes something else.
        MissingExtraError: an ONNX file is asked for, and the packages of the extra `onnx` are not installed.
        CheckpointError: the file cannot be written.

    >>> import tempfile
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = export(net, 0.5, Path(folder, "half.onnx"))
    >>> written.widths, written.params, written.difference < 1e-5
    (('0.5',), (58,), True)
    """
    path = Path(path)
    kind = format_of(path, format)
    if kind == "onnx":
        require_onnx()
    difference = 0.0
    write = {"onnx": _onnx, "pt2": _pt2, "torch": _torch}[kind](net, width, dynamic_batch)

    def write_and_check(temporary: Path) -> None:
        nonlocal difference
        difference = write(temporary, tolerance)

    write_atomically(path, write_and_check)
    return Exported(
        path=path,
        format=kind,
        widths=(net.label(width),),
        macs=(macs(net, width),),
        params=(params(net, width),),
        size=path.stat().st_size,
        difference=difference,
    )


Write = Callable[[Path, float], float]
"""Writes a file and gives its difference to the network, for a tolerance."""


def _onnx(net: Supernet, width: Width, dynamic_batch: bool) -> Write:
    dense = dense_program(net, width, dynamic_batch=dynamic_batch)
    content = onnx_model(dense).SerializeToString()

    def write(path: Path, tolerance: float) -> float:
        path.write_bytes(content)
        return _check(dense, runner(open_session(path)), tolerance)

    return write


def _pt2(net: Supernet, width: Width, dynamic_batch: bool) -> Write:
    dense = dense_program(net, width, dynamic_batch=dynamic_batch)
    buffer = io.BytesIO()
    torch.export.save(dense.program, buffer)

    def write(path: Path, tolerance: float) -> float:
        path.write_bytes(buffer.getvalue())
        with path.open("rb") as file:
            again = torch.export.load(io.BytesIO(file.read()))
        return _check(dense, outputs_of(again.module()), tolerance)

    return write


def _torch(net: Supernet, width: Width, dynamic_batch: bool) -> Write:
    dense = net.extract(width).cpu().float().eval()
    full = copy.deepcopy(net.model).cpu().float().eval()
    inputs = net.inputs.map(lambda t: t.detach().cpu().float() if t.is_floating_point() else t.cpu())

    def write(path: Path, tolerance: float) -> float:
        save_dense(dense, full, path)
        again = outputs_of(load_dense(path, full))
        return check_outputs(again, dense, inputs, what="the file", dynamic_batch=False, tolerance=tolerance)

    return write


def _check(dense: DenseProgram, run: Run, tolerance: float) -> float:
    return check_outputs(
        run, dense.reference, dense.inputs, what="the file", dynamic_batch=dense.dynamic_batch, tolerance=tolerance
    )
