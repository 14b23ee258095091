"""Export format records, and their registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from anywidth.core.errors import ExportError
from anywidth.core.registry import Registry
from anywidth.cost import latency
from anywidth.supernet import Supernet
from anywidth.widths import Width

__all__ = ["FORMATS", "ExportFormat", "Prepare", "Write", "format_of"]

Write = Callable[[Path, float], float]
"""Writes a file, checks it against a tolerance, and returns its largest difference from the subnet's outputs."""


class Prepare(Protocol):
    """Interface of an export format."""

    def __call__(self, net: Supernet, width: Width, *, dynamic_batch: bool) -> Write:
        """Prepare one width for export.

        Args:
            net: The supernet, which is not changed.
            width: As in `Supernet.config`.
            dynamic_batch: Whether the file must accept any batch size.

        Returns:
            Function that writes the file. It receives a temporary path, which is renamed if the function does not
            raise.

        Raises:
            AnywidthError: the width cannot be exported, or a package is missing.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ExportFormat:
    """One export format.

    Attributes:
        name: Name for `format=` and `--format`.
        suffixes: File extensions that select it, such as ".onnx".
        prepare: Prepares a width for export.
        prepare_blocked: Prepares a width of a nested network without the products with zero blocks; None if the format
            has no such files.
        latency: Measures one call of such a file on this machine, in milliseconds.
    """

    name: str
    suffixes: tuple[str, ...]
    prepare: Prepare
    prepare_blocked: Prepare | None = None
    latency: Callable[[Supernet, Width], float] = latency


FORMATS = Registry(
    ExportFormat,
    kind="format",
    package="anywidth.export.formats",
    group="anywidth.export_formats",
    error=ExportError,
)
"""Registry of export formats."""


def format_of(path: Path, format: str | None = None) -> ExportFormat:
    """Export format by name, or by the extension of a file.

    Raises:
        ExportError: the format is unknown.

    >>> format_of(Path("small.onnx")).name, format_of(Path("small.bin"), "torch").name
    ('onnx', 'torch')
    """
    if format is not None:
        return FORMATS.find(format)
    found = FORMATS.first(lambda record: path.suffix in record.suffixes)
    if found is None:
        raise ExportError(
            f"the extension of {path.name!r} matches no format; give format= one of {', '.join(FORMATS.names())}, or "
            "end the name in .onnx"
        )
    return found
