"""`anywidth.export`: write one width to a file that other programs run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from anywidth.core.errors import ExportError
from anywidth.core.files import write_atomically
from anywidth.cost import macs, params
from anywidth.export.check import TOLERANCE
from anywidth.export.formats import FORMATS, format_of
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["Exported", "export"]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """Result of an export.

    Attributes:
        path: The written file.
        format: Name of the format, such as onnx, torch or pt2.
        widths: Names of the widths in the file.
        macs: Multiply-adds per sample of each width.
        params: Parameters of each width.
        size: File size in bytes.
        difference: Largest difference from the subnets' outputs in the check, relative to outputs above 1.
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
    blocked: bool = False,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write one width to a file, and check that the file computes the same outputs as the subnet.

    | format | content | runs in |
    |---|---|---|
    | `onnx` | ONNX, batch norms folded, weights in the file | ONNX Runtime and many others |
    | `pt2` | archive of `torch.export`, batch norms folded | PyTorch without the model's code, ExecuTorch |
    | `torch` | safetensors, batch norms unchanged | the model's own class, by `anywidth.export.load_dense` |

    Weights are 32-bit floats, whatever the dtype of the supernet. The file appears once it is complete and checked. For
    other formats, see `docs/extending.md`.

    Args:
        net: The supernet, which is not changed.
        width: As in `Supernet.config`; must be calibrated.
        path: The file to write.
        format: Name of a format; by default chosen by the extension of `path`, such as .onnx, .pt2 or .safetensors.
        dynamic_batch: Whether the file accepts any batch size; otherwise it accepts that of the example inputs. A
            `torch` file accepts any.
        blocked: Skip the zero blocks of a nested network, as `Supernet.blocked` does (formats `onnx` and `pt2`).
        tolerance: Largest allowed difference from the subnet's outputs, relative to outputs above 1.

    Raises:
        UncalibratedError: the width has no up-to-date batch-norm statistics.
        WidthError: `blocked` is given, and the network is not nested.
        ExportError: the format is unknown or has no blocked files, the network cannot be exported, or the file computes
            other outputs.
        MissingExtraError: an ONNX file was requested, and the packages of the extra `onnx` are not installed.
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
    prepare = chosen.prepare_blocked if blocked else chosen.prepare
    if prepare is None:
        known = ", ".join(name for name in FORMATS.names() if FORMATS.find(name).prepare_blocked is not None)
        raise ExportError(
            f"format {chosen.name!r} has no files without zero blocks; give format= one of {known}, or leave blocked "
            "out"
        )
    write = prepare(net, width, dynamic_batch=dynamic_batch)

    def write_and_check(temporary: Path) -> None:
        nonlocal difference
        difference = write(temporary, tolerance)

    write_atomically(path, write_and_check)
    return Exported(
        path=path,
        format=chosen.name,
        widths=(str(net.config(width)),),
        macs=(macs(net, width),),
        params=(params(net, width),),
        size=path.stat().st_size,
        difference=difference,
    )
