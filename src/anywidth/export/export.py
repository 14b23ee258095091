"""`anywidth.export`: one width as a file that other programs run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anywidth.core.files import write_atomically
from anywidth.cost import macs, params
from anywidth.export.check import TOLERANCE
from anywidth.export.formats import format_of
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["Exported", "export"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A written file.

    Attributes:
        path: The file.
        format: onnx, torch, pt2, or the name of another format.
        widths: The names of the widths in it.
        macs: Multiply-adds per sample of each width.
        params: Parameters of each width.
        size: Bytes of the file.
        difference: The largest difference to the subnets' outputs that the check found, relative to outputs above 1.
    """

    path: Path
    format: str
    widths: tuple[str, ...]
    macs: tuple[int, ...]
    params: tuple[int, ...]
    size: int
    difference: float


def export(
    net: Supernet,
    width: Width,
    path: str | Path,
    format: str | None = None,
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

    Weights are 32-bit floats, whatever the supernet's are. The file appears when it is complete and checked. For other
    formats, see `docs/extending.md`.

    Args:
        net: The supernet; nothing of it changes.
        width: As in `Supernet.config`; it has to be calibrated.
        path: The file to write.
        format: The name of a format; by default what the ending of `path` means, such as .onnx, .pt2 or .safetensors.
        dynamic_batch: Let the file take any number of samples; otherwise it takes as many as the example inputs have.
            A `torch` file takes any.
        tolerance: The largest difference to the subnet's outputs, as a share of the largest of them if above 1.

    Raises:
        UncalibratedError: the width has no up-to-date batch-norm statistics.
        ExportError: the format is unknown, the network cannot be exported, or the file computes something else.
        MissingExtraError: an ONNX file is asked for, and the packages of the extra `onnx` are not installed.
        CheckpointError: the file cannot be written.

    >>> import tempfile, torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)), torch.randn(1, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = export(net, 0.5, Path(folder, "half.onnx"))
    >>> written.widths, written.params, written.difference < 1e-5
    (('0.5',), (58,), True)
    """
    path = Path(path)
    chosen = format_of(path, format)
    difference = 0.0
    write = chosen.prepare(net, width, dynamic_batch=dynamic_batch)

    def write_and_check(temporary: Path) -> None:
        nonlocal difference
        difference = write(temporary, tolerance)

    write_atomically(path, write_and_check)
    return Exported(
        path=path,
        format=chosen.name,
        widths=(net.label(width),),
        macs=(macs(net, width),),
        params=(params(net, width),),
        size=path.stat().st_size,
        difference=difference,
    )
